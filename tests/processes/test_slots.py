"""The slots: each belongs to one worker or engine at a time, whatever dies."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from app.config.memory import available_memory
from app.processes.memory import SharedMemory
from app.processes.slots import Claim, SlotArea, Slots
from app.serving.errors import StartupError

ROOT = Path(__file__).parents[2]
COUNT, SLOT_BYTES = 6, 64
CONTENDED = 2  # slots for three workers
WORKERS = st.integers(0, 2)
ENGINES = st.integers(0, 1)


def make(count: int = COUNT) -> Slots:
    return Slots(SharedMemory.create(Slots.size(count)), 0, count)


def test_slots_do_not_overlap() -> None:
    memory = SharedMemory.create(8 + 3 * SLOT_BYTES)
    area = SlotArea(memory.view, 8, SLOT_BYTES)
    for slot in range(3):
        area.slot(slot)[:] = bytes([slot + 1]) * SLOT_BYTES
    assert memory.view[:8] == bytes(8)
    for slot in range(3):
        assert area.slot(slot) == bytes([slot + 1]) * SLOT_BYTES


def test_every_slot_can_be_claimed_once() -> None:
    slots = make(3)
    claims = [slots.claim(0), slots.claim(1), slots.claim(0)]
    assert sorted(claim.slot for claim in claims if claim) == [0, 1, 2]
    assert (slots.claim(1), slots.used) == (None, 3)


def test_the_slot_used_last_is_claimed_first() -> None:
    slots = make()
    first, second = slots.claim(0), slots.claim(0)
    assert first
    assert second
    slots.release(first)
    slots.release(second)
    again = slots.claim(0)
    assert again
    assert (again.slot, again.generation) == (second.slot, second.generation + 1)


def test_memory_is_shared_with_whoever_has_the_descriptor() -> None:
    memory = SharedMemory.create(Slots.size(COUNT))
    other = Slots(SharedMemory(os.dup(memory.descriptor)), 0, COUNT)
    assert Slots(memory, 0, COUNT).claim(0)
    assert other.used == 1


def test_memory_grows_behind_what_is_mapped() -> None:
    memory = SharedMemory.create(5000)
    before, other = memory.view, SharedMemory(os.dup(memory.descriptor))
    before[:3] = b"abc"
    begin = memory.grow(3000)
    assert (begin, len(memory), len(other)) == (5000, 8000, 5000)
    memory.view[7999] = 1
    other.map()
    assert (bytes(other.view[:3]), other.view[7999]) == (b"abc", 1)
    before[:3] = b"xyz"
    assert bytes(other.view[:3]) == b"xyz"


@pytest.mark.parametrize("size", [2**60, 2**63])
def test_too_much_memory_is_a_clear_error(size: int) -> None:
    assert (available_memory() or size) < size
    reason = r"^[\d,]+ bytes of shared memory cannot be allocated: [\d,]+ are available; lower"
    with pytest.raises(StartupError, match=reason):
        SharedMemory.create(size)


def test_memory_that_the_system_refuses_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StartupError, match=r"4,096 bytes .+: Cannot allocate memory; lower"):
        SharedMemory.create(4096)


def test_shared_memory_cannot_shrink() -> None:
    memory = SharedMemory.create(4096)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.descriptor, 0)


class SlotsMachine(RuleBasedStateMachine):
    """Workers, engines and a supervisor that use slots as they may; `owners` is the model."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.slots = make()
        self.owners: dict[int, int] = {}  # slot to worker
        self.submitted: dict[int, int] = {}  # slot to engine, until it has answered
        self.received: set[int] = set()  # submitted slots whose message the engine has
        self.generations = [0] * COUNT

    @rule(target=claims, worker=WORKERS)
    def claim(self, worker: int) -> tuple[int, Claim] | None:
        claim = self.slots.claim(worker)
        assert (claim is None) == (len(self.owners) == COUNT)
        if not claim:
            return None
        assert claim.slot not in self.owners
        self.generations[claim.slot] += 1
        assert claim.generation == self.generations[claim.slot]
        self.owners[claim.slot] = worker
        return worker, claim

    def holds(self, claimed: tuple[int, Claim]) -> bool:
        worker, claim = claimed
        current = self.generations[claim.slot] == claim.generation
        return current and self.owners.get(claim.slot) == worker

    @rule(claimed=claims, engine=ENGINES, arrives=st.booleans())
    def submit(self, claimed: tuple[int, Claim] | None, engine: int, arrives: bool) -> None:
        if claimed and self.holds(claimed) and claimed[1].slot not in self.submitted:
            slot = claimed[1].slot
            self.slots.submit(claimed[1], engine)
            self.submitted[slot] = engine
            if arrives:
                self.received.add(slot)

    @rule(claimed=claims, engine=ENGINES)
    def message(self, claimed: tuple[int, Claim] | None, engine: int) -> None:
        """A message about a claim is accepted exactly if the claim is the slot's latest."""
        if claimed:
            worker, claim = claimed
            expected = self.holds(claimed) and self.submitted.get(claim.slot) == engine
            found = self.slots.is_current(claim.slot, claim.generation, worker, engine)
            assert found == expected

    @rule(claimed=consumes(claims))
    def release(self, claimed: tuple[int, Claim] | None) -> None:
        """By the worker: unsubmitted, or after the engine's answer."""
        if claimed and self.holds(claimed):
            slot = claimed[1].slot
            self.submitted.pop(slot, None)
            self.received.discard(slot)
            self.slots.release(claimed[1])
            del self.owners[slot]

    @rule(worker=WORKERS)
    def kill(self, worker: int) -> None:
        """The supervisor and each engine free what a dead worker leaves; batches end later."""
        unsubmitted = [s for s, w in self.owners.items() if w == worker and s not in self.submitted]
        assert self.slots.free_unsubmitted(worker) == len(unsubmitted)
        for engine in (0, 1):
            self.slots.free_unknown(worker, engine, self.received.__contains__)
        lost = [s for s, w in self.owners.items() if w == worker and s not in self.received]
        for slot in lost:
            del self.owners[slot]
            self.submitted.pop(slot, None)
        for slot in [s for s, w in self.owners.items() if w == worker]:
            self.slots.free(slot)
            del self.owners[slot], self.submitted[slot]
            self.received.discard(slot)

    @invariant()
    def the_number_of_used_slots_is_exact(self) -> None:
        assert self.slots.used == len(self.owners)


TestSlotsMachine = SlotsMachine.TestCase

HAMMER = """
import os, random, sys, time
from app.config.memory import available_memory
from app.config.memory import available_memory
from app.processes.memory import SharedMemory
from app.processes.slots import SlotArea, Slots
descriptor, worker, count, slot_bytes = map(int, sys.argv[1:])
memory = SharedMemory(descriptor)
slots = Slots(memory, 0, count)
area = SlotArea(memory.view, 4096, slot_bytes)

class Slow:  # leaves others time between the look at a slot and its claim
    def __init__(self, view):
        self.view = view
    def __getitem__(self, slot):
        state = self.view[slot]
        time.sleep(1e-4)
        return state
    def __setitem__(self, slot, state):
        self.view[slot] = state
    def __bytes__(self):
        return bytes(self.view)

slots._states = Slow(slots._states)
parent = os.getppid()
chance = random.Random(worker)
held = []
print("ready", flush=True)
while os.getppid() == parent:
    claim = slots.claim(worker) if not held else None
    if claim:
        mark = b"%16d%16d" % (worker, claim.generation)
        area.slot(claim.slot)[:32] = mark
        held.append((claim, mark))
    for claim, mark in held:
        if bytes(area.slot(claim.slot)[:32]) != mark:
            sys.exit(f"slot {claim.slot} was claimed twice")
    if held and chance.random() < 0.9:
        slots.release(held.pop(chance.randrange(len(held)))[0])
"""


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory.create(4096 + CONTENDED * SLOT_BYTES)


def test_killed_workers_lose_no_slot_and_share_none(memory: SharedMemory) -> None:
    slots = Slots(memory, 0, CONTENDED)

    def start(worker: int) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                HAMMER,
                *map(str, (memory.descriptor, worker, CONTENDED, SLOT_BYTES)),
            ],
            cwd=ROOT,
            pass_fds=[memory.descriptor],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    workers = [start(number) for number in range(3)]
    try:
        for turn in range(12):
            victim = turn % len(workers)
            assert workers[victim].stdout
            assert workers[victim].stdout.readline() == "ready\n"  # type: ignore[union-attr]
            time.sleep(0.1)
            workers[victim].send_signal(signal.SIGKILL)
            _, errors = workers[victim].communicate()
            assert (workers[victim].returncode, errors) == (-signal.SIGKILL, "")
            slots.free_unsubmitted(victim)
            workers[victim] = start(victim)
    finally:
        for number, worker in enumerate(workers):
            worker.kill()
            _, errors = worker.communicate()
            assert errors == ""
            slots.free_unsubmitted(number)
    assert slots.used == 0
