"""Calls in an inference thread."""

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial

import pytest

from app.serving.inference_thread import InferenceThread

pytestmark = pytest.mark.anyio


@pytest.fixture
async def thread() -> AsyncIterator[InferenceThread]:
    thread = InferenceThread(7)
    yield thread
    thread.stop()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


async def test_calls_run_in_order_in_the_same_thread(thread: InferenceThread) -> None:
    def work(number: int) -> tuple[int, threading.Thread]:
        return number, threading.current_thread()

    found = await asyncio.gather(*(thread.call(partial(work, number)) for number in range(50)))
    assert [number for number, _ in found] == [*range(50)]
    assert {each for _, each in found} == {thread}
    assert thread.name == "inference-7"


async def test_exception_is_raised_or_returned(thread: InferenceThread) -> None:
    def fail() -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        await thread.call(fail)
    outcome = await thread.attempt(fail)
    assert isinstance(outcome, ValueError)


async def test_thread_outlives_a_call_that_exits(thread: InferenceThread) -> None:
    with pytest.raises(RuntimeError, match=r"the call raised SystemExit\(3\)"):
        await thread.call(lambda: exit(3))
    assert await thread.call(lambda: "still there") == "still there"


async def test_late_call_gives_none_and_the_next_one_waits_for_it(thread: InferenceThread) -> None:
    gate = threading.Event()
    assert await thread.attempt(lambda: gate.wait(10), timeout=0.01) is None
    following = asyncio.create_task(thread.call(lambda: "next"))
    await asyncio.sleep(0.01)
    assert not following.done()
    gate.set()
    assert await following == "next"


async def test_cancelled_caller_leaves_the_thread_usable(thread: InferenceThread) -> None:
    gate = threading.Event()
    task = asyncio.create_task(thread.call(lambda: gate.wait(10)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    assert await thread.call(lambda: 1) == 1
