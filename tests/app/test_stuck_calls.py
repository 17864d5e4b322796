"""Detection of stuck calls, and replacement of their threads."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.serving.worker_pool import Timed, Watch, thread_cpu_clock

from .conftest import until
from .pooling import STUCK_AFTER, Clock, Gate, count_free, hold, pooling, until_stuck

pytestmark = [pytest.mark.anyio, pytest.mark.one_process("about threads")]


async def test_end_of_a_stuck_call_keeps_the_number_of_threads() -> None:
    clock = Clock()
    async with pooling(2, clock=clock) as pool:
        first, _ = await hold(pool)
        clock.now += STUCK_AFTER
        await count_free(pool, 2)
        second, _ = await hold(pool)
        clock.now += STUCK_AFTER
        first.open.set()  # one was stuck before, one is stuck now
        await until(lambda: pool.count_stuck() == 1)
        await count_free(pool, 2)
        second.open.set()


async def test_stuck_call_can_still_return_a_result() -> None:
    clock = Clock()
    async with pooling(1, clock=clock) as pool:
        gate, task = await hold(pool)
        clock.now += STUCK_AFTER
        await count_free(pool, 1)
        gate.open.set()
        assert (await task).result == "through"
        await count_free(pool, 1)


async def test_pool_is_lost_when_all_threads_are_stuck() -> None:
    clock = Clock()
    lost: list[str] = []
    async with pooling(2, clock=clock, lost=lost.append) as pool:
        gates = []
        for stuck in range(4):
            assert pool.count_stuck() == stuck
            await count_free(pool, min(2, 4 - stuck))
            assert lost == []
            gates.append((await hold(pool))[0])
            clock.now += STUCK_AFTER
        assert pool.count_stuck() == 4
        assert lost == ["all 4 decoders are stuck"]
        for gate in gates:
            gate.open.set()
        await until(lambda: pool.count_stuck() == 0)
        await count_free(pool, 2)


@settings(max_examples=30)
@given(
    workers=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.sampled_from(["begin", "end", "cancel", "wait"]), st.integers(0, 9)),
        max_size=14,
    ),
)
def test_number_of_free_threads_in_any_sequence_of_events(
    workers: int, steps: list[tuple[str, int]]
) -> None:
    """Calls start, end, are cancelled and get stuck in any order."""

    async def scenario() -> None:
        clock = Clock()
        async with pooling(workers, clock=clock) as pool:
            running: list[tuple[Gate, asyncio.Task[Timed[str]], float]] = []
            for step, number in steps:
                stuck = [begun for _, _, begun in running if clock.now - begun >= STUCK_AFTER]
                assert pool.count_stuck() == len(stuck)
                able = min(workers, 2 * workers - len(stuck))
                if step == "begin" and len(running) - len(stuck) < able:
                    running.append((*await hold(pool), clock.now))
                elif step == "wait":
                    clock.now += number
                elif running:
                    gate, task, begun = running.pop(number % len(running))
                    if step == "cancel":
                        task.cancel()
                    gate.open.set()
                    await asyncio.gather(task, return_exceptions=True)
                    await until(gate.ended.is_set)
                    was_stuck = clock.now - begun >= STUCK_AFTER
                    await until_stuck(pool, len(stuck) - was_stuck)
            stuck = [begun for _, _, begun in running if clock.now - begun >= STUCK_AFTER]
            able = min(workers, 2 * workers - len(stuck))
            await count_free(pool, able - (len(running) - len(stuck)))
            for gate, *_ in running:
                gate.open.set()
            await asyncio.gather(*(task for _, task, _ in running))
            await until_stuck(pool, 0)
            await count_free(pool, workers)

    asyncio.run(scenario())


@given(
    calls=st.integers(1, 256),
    computes=st.floats(0.001, STUCK_AFTER / 2),
    looks=st.integers(1, 200),
)
def test_calls_that_share_a_core_are_not_stuck(calls: int, computes: float, looks: int) -> None:
    """Parallel calls take longer, but each uses no more CPU time than alone."""
    clock, cpu = Clock(), Clock()
    watch = Watch(STUCK_AFTER, clock, cpu)
    for _ in range(looks):
        cpu.now += computes / looks
        clock.now += calls * computes / looks
        assert not watch.is_stuck()


@given(computed=st.floats(0, STUCK_AFTER / 2), waits=st.lists(st.floats(0.1, 30), max_size=20))
def test_call_that_waits_forever_is_stuck(computed: float, waits: list[float]) -> None:
    clock, cpu = Clock(), Clock()
    watch = Watch(STUCK_AFTER, clock, cpu)
    cpu.now += computed
    clock.now += computed
    watch.is_stuck()
    for wait in waits:
        clock.now += wait
        watch.is_stuck()
    clock.now += 2 * STUCK_AFTER + 1
    watch.is_stuck()  # up to here the call may have used CPU time
    clock.now += STUCK_AFTER + 1
    assert watch.is_stuck()
    cpu.now += STUCK_AFTER / 4
    clock.now += STUCK_AFTER + 1
    assert not watch.is_stuck(), "it goes on"


def test_call_that_computes_forever_is_stuck() -> None:
    clock, cpu = Clock(), Clock()
    watch = Watch(STUCK_AFTER, clock, cpu)
    for _ in range(99):
        clock.now += 4
        cpu.now += STUCK_AFTER / 100
        assert not watch.is_stuck()
    cpu.now += STUCK_AFTER / 50
    assert watch.is_stuck()


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such clock")
def test_thread_clock_counts_cpu_time() -> None:
    clocks: list[Callable[[], float]] = []
    gate = threading.Event()

    def compute() -> None:
        clocks.append(thread_cpu_clock())
        begun = time.thread_time()
        while time.thread_time() - begun < 0.05:
            pass
        gate.wait(10)

    thread = threading.Thread(target=compute)
    thread.start()
    while not clocks:
        time.sleep(0.001)
    (clock,) = clocks
    while clock() < 0.05:
        time.sleep(0.001)
    time.sleep(0.05)
    before = clock()
    time.sleep(0.1)
    assert clock() - before < 0.05, "it waits"
    gate.set()
    thread.join()
