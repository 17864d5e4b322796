"""Slots in shared memory, each for one image on its way from a worker to an engine and back.

A slot is also a permit: an image is admitted when its worker has claimed one. Slots are claimed
without messages, so that their number is the exact bound on admitted images whichever workers they
come from. Two workers cannot claim the same slot: each holds a lock on the slot's byte of the
descriptor meanwhile, which the kernel releases if the worker dies.

Who may write to a slot's entry in the table:

| from | to | by |
| --- | --- | --- |
| FREE | CLAIMED | any worker, with the lock |
| CLAIMED | FREE | the worker that claimed it, or the supervisor after that worker's death |
| CLAIMED | SUBMITTED | the worker that claimed it |
| SUBMITTED | FREE | the worker, after the engine's answer; the engine, if the worker has died |
"""

import fcntl
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.processes.memory import SharedMemory

FREE, CLAIMED, SUBMITTED = 0, 1, 2  # submitted to engine n: SUBMITTED + n


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed slot.

    Attributes:
        generation: how often the slot has been claimed. Messages carry it, so that one about an
            earlier claim is recognised.
    """

    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class SlotArea:
    """Where the bytes of the slots are, for one model.

    Attributes:
        begin: of slot 0 in the shared memory.
        slot_bytes: a multiple of 8.
    """

    view: memoryview
    begin: int
    slot_bytes: int

    def slot(self, slot: int) -> memoryview:
        """The bytes of a slot."""
        begin = self.begin + slot * self.slot_bytes
        return self.view[begin : begin + self.slot_bytes]


class Slots:
    """The table of slots.

    Args:
        memory: the same in every process; the table begins at byte ``begin``, a multiple of 8.
        count: number of slots.
    """

    def __init__(self, memory: SharedMemory, begin: int, count: int) -> None:
        self._descriptor = memory.descriptor
        self.count = count
        view = memory.view[begin:]
        self._states = view[:count]
        self._owners = view[count : 2 * count]
        generations = round_up(2 * count, 8)
        self._generations = view[generations : generations + 8 * count].cast("Q")
        self._recent: list[int] = []  # released by this process, whose pages are in its page table

    @staticmethod
    def size(count: int) -> int:
        """Bytes of a table."""
        return round_up(2 * count, 8) + 8 * count

    @property
    def used(self) -> int:
        """Slots that are not free."""
        return self.count - bytes(self._states).count(FREE)

    def submitted(self, engine: int) -> int:
        """Images that an engine has not answered, from all workers."""
        return bytes(self._states).count(SUBMITTED + engine)

    def claim(self, worker: int) -> Claim | None:
        """Claim a free slot for a worker; ``None`` if all are in use."""
        for slot in self._candidates():
            if claim := self._try(slot, worker):
                return claim
        return None

    def submit(self, claim: Claim, engine: int) -> None:
        """Hand a claimed slot to an engine; the worker sends the message next."""
        self._states[claim.slot] = SUBMITTED + engine

    def release(self, claim: Claim) -> None:
        """Free a slot that this process has claimed and that no engine uses."""
        self._states[claim.slot] = FREE
        self._recent.append(claim.slot)

    def free(self, slot: int) -> None:
        """Free a slot whose worker has died."""
        self._states[slot] = FREE

    def is_current(self, slot: int, generation: int, worker: int, engine: int) -> bool:
        """Whether a message about a slot is about its latest claim, by this worker."""
        return (
            slot < self.count
            and self._states[slot] == SUBMITTED + engine
            and self._owners[slot] == worker
            and self._generations[slot] == generation
        )

    def free_unsubmitted(self, worker: int) -> int:
        """Free the slots that a worker had claimed when it died; returns their number.

        The worker must have ended: a running one could submit a slot at the same time.
        """
        return self._free_where(lambda slot: self._states[slot] == CLAIMED, worker)

    def free_unknown(self, worker: int, engine: int, known: Callable[[int], bool]) -> int:
        """Free a dead worker's submitted slots whose message has not reached the engine.

        Args:
            known: whether the engine is still going to answer for a slot, and frees it then.
        """
        return self._free_where(
            lambda slot: self._states[slot] == SUBMITTED + engine and not known(slot), worker
        )

    def _free_where(self, condition: Callable[[int], bool], worker: int) -> int:
        found = [
            slot
            for slot in range(self.count)
            if self._owners[slot] == worker and self._states[slot] != FREE and condition(slot)
        ]
        for slot in found:
            self.free(slot)
        return len(found)

    def _candidates(self) -> Iterator[int]:
        """Slots that seem free: first those used last by this process, then all."""
        while self._recent:
            yield self._recent.pop()
        slot = bytes(self._states).find(FREE)
        while slot >= 0:
            yield slot
            slot = bytes(self._states).find(FREE, slot + 1)

    def _try(self, slot: int, worker: int) -> Claim | None:
        """Claim a slot if it is free and no other worker is about to claim it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except OSError:
            return None
        try:
            if self._states[slot] != FREE:
                return None
            self._owners[slot] = worker
            self._generations[slot] += 1
            self._states[slot] = CLAIMED
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, slot)
        return Claim(slot, self._generations[slot])


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below a number."""
    return -(-number // multiple) * multiple
