"""Work in steps: small tasks on the event loop, large ones in turn in the side thread."""

import asyncio
import threading
from typing import Any

import pytest

from app.serving import side_thread
from app.serving.side_thread import SideThread, Steps, finish

pytestmark = pytest.mark.anyio


def where(count: int) -> Steps[list[str]]:
    """Return the names of the threads in which ``count`` steps ran."""
    names = []
    for _ in range(count):
        names.append(threading.current_thread().name)
        yield 1
    return names


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A side thread with a simulated clock, on which a step takes 0.4 ms."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 0.0004
            return self.now

    monkeypatch.setattr(side_thread, "time", Clock())
    side = SideThread()
    yield side
    side.stop()


async def test_small_work_runs_on_the_event_loop_and_large_work_in_the_thread(
    side: SideThread,
) -> None:
    held: list[int] = []
    assert await side.run(where(2), held.append) == ["MainThread"] * 2
    names = await side.run(where(20), held.append)
    assert names[0] == "MainThread"
    assert names.count("side_0") >= 17
    assert sum(held) == 22
    assert max(held) <= 6, "bytes are counted after each slice"


async def test_work_without_steps_returns_its_result(side: SideThread) -> None:
    def nothing() -> Steps[int]:
        return 3
        yield 0

    assert await side.run(nothing()) == finish(nothing()) == 3


async def test_tasks_take_turns(side: SideThread) -> None:
    """A small task ends long before larger ones that started earlier."""
    ended: list[int] = []

    async def work(steps: int) -> None:
        await side.run(where(steps))
        ended.append(steps)

    await asyncio.gather(*map(work, (1_000, 900, 800, 20)))
    assert ended == [20, 800, 900, 1_000]


async def test_error_in_a_step_or_in_hold_ends_the_work(side: SideThread) -> None:
    done: list[int] = []

    def work() -> Steps[None]:
        for number in range(100):
            done.append(number)
            yield 1

    def refuse(_: int) -> None:
        if len(done) > 20:
            raise MemoryError("full")

    def broken() -> Steps[None]:
        yield from work()
        raise ValueError("broken")

    with pytest.raises(MemoryError, match="full"):
        await side.run(work(), refuse)
    assert len(done) < 40
    with pytest.raises(ValueError, match="broken"):
        await side.run(broken())
    assert await side.run(where(1)) == ["MainThread"]


async def test_cancelled_work_ends_and_does_not_block_others(side: SideThread) -> None:
    begun, gate = threading.Event(), threading.Event()
    steps_done = 0

    def stuck() -> Steps[None]:
        nonlocal steps_done
        for number in range(1000):
            steps_done = number
            if number == 10:
                begun.set()
                assert gate.wait(10)
            yield 0

    task = asyncio.create_task(side.run(stuck()))
    await asyncio.to_thread(begun.wait, 10)
    other = asyncio.create_task(side.run(where(50)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    assert len(await other) == 50
    assert steps_done < 30
