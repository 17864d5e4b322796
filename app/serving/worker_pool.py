"""A thread pool that replaces threads whose calls are stuck."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Clock = Callable[[], float]

logger = logging.getLogger(__name__)


def thread_cpu_clock() -> Clock:
    """A clock of the calling thread's CPU time, which any thread may read.

    Systems without such a clock (macOS, Windows) use elapsed time instead.
    """
    if sys.platform == "linux":
        return partial(time.clock_gettime, time.pthread_getcpuclockid(threading.get_ident()))
    return time.monotonic


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """The result of a call, with its start and end in seconds."""

    result: T
    begun: float
    ended: float


class WorkerPool:
    """Runs calls in ``workers`` threads.

    A thread cannot be interrupted. So a thread whose call is stuck (see `Watch`) is replaced, and
    ends when its call does. There are at most ``2 * workers`` threads; at that limit, each further
    stuck call means one worker less. When all threads are stuck, ``on_lost`` is called with the
    reason.

    Args:
        name: the name of the threads, also in messages.
        stuck_after: see `Watch`.
        clock: monotonic seconds.
        cpu_clock: called in each thread; returns the clock of that thread's CPU time.
    """

    def __init__(
        self,
        workers: int,
        name: str,
        *,
        on_lost: Callable[[str], None] = lambda reason: None,
        stuck_after: float,
        clock: Clock = time.monotonic,
        cpu_clock: Callable[[], Clock] = thread_cpu_clock,
    ) -> None:
        self._size = workers
        self._name = name
        self._on_lost = on_lost
        self._stuck_after = stuck_after
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._calls: SimpleQueue[_Call[Any] | None] = SimpleQueue()  # ``None`` ends a thread
        self._lock = threading.Lock()  # guards the two attributes below
        self._threads: dict[object, Watch | None] = {}  # with the watch of the running call
        self._stuck: set[object] = set()

    async def run(
        self, work: Callable[[], T], on_end: Callable[[], None] = lambda: None
    ) -> Timed[T]:
        """The result of ``work`` in one of the threads.

        If the caller is cancelled, its work leaves the queue; work that has started continues.

        Args:
            on_end: called on the event loop once the work has ended or left the queue, and no
                thread refers to it.
        """
        self.count_stuck()
        loop = asyncio.get_running_loop()
        call = _Call(work, on_end, loop.create_future())
        self._calls.put(call)
        try:
            return await call.future
        finally:
            call.give_up()
            del call  # the future's exception refers to this frame: avoid a cycle

    def count_stuck(self) -> int:
        """Count the stuck calls, and replace their threads."""
        with self._lock:
            found = {key for key, watch in self._threads.items() if watch and watch.is_stuck()}
            new = len(found - self._stuck)
            self._stuck = found
            wanted = min(self._size + len(found), 2 * self._size) - len(self._threads)
            for _ in range(wanted):
                self._start_thread()
        if new:
            logger.error("stuck %ss: %d of at most %d", self._name, len(found), 2 * self._size)
        if len(found) == 2 * self._size:
            self._on_lost(f"all {len(found)} {self._name}s are stuck")
        return len(found)

    def stop(self) -> None:
        """Cancel the waiting calls, and end each thread after its current call."""
        try:
            while call := self._calls.get_nowait():
                call.future.cancel()
        except Empty:
            pass
        with self._lock:
            threads = len(self._threads)
        for _ in range(threads):
            self._calls.put(None)

    def _start_thread(self) -> None:
        key = object()
        threading.Thread(target=self._serve, args=(key,), name=self._name, daemon=True).start()
        self._threads[key] = None

    def _serve(self, key: object) -> None:
        """Run calls until the thread is not needed any more."""
        cpu = self._cpu_clock()
        needed = True
        while needed and (call := self._calls.get()):
            if work := call.begin():
                with self._lock:
                    self._threads[key] = Watch(self._stuck_after, self._clock, cpu)
                outcome = attempt(work)
                del work
                needed = self._finish_call(key)
                call.end(outcome)
                del outcome
            del call  # otherwise it would be kept until the next call
        with self._lock:
            self._threads.pop(key, None)

    def _finish_call(self, key: object) -> bool:
        """Record the end of a thread's call; returns whether the thread is still needed."""
        with self._lock:
            self._stuck.discard(key)
            if len(self._threads) - len(self._stuck) > self._size:
                del self._threads[key]
                return False
            self._threads[key] = None
            return True


class Watch:
    """Decides whether a call is stuck; created in the call's thread when the call starts.

    A call is stuck if it has used ``stuck_after`` seconds of CPU time, or almost none within
    ``stuck_after`` seconds, because it waits for something that never happens. Elapsed time alone
    means nothing: calls that share cores or the interpreter lock take longer.
    """

    IDLE = 1e-3  # share of CPU time; a hundred threads on one core get ten times as much

    def __init__(self, stuck_after: float, clock: Clock, cpu: Clock) -> None:
        self._stuck_after = stuck_after
        self._clock = clock
        self._cpu = cpu
        self._begun = (clock(), cpu())
        self._mark = self._begun  # when the thread was last seen to have used CPU time
        self._idle = False

    def is_stuck(self) -> bool:
        now = self._clock()
        if now - self._begun[0] < self._stuck_after:
            return False
        cpu = self._cpu()
        seconds, computed = now - self._mark[0], cpu - self._mark[1]
        if seconds >= self._stuck_after:
            self._idle = computed < self.IDLE * seconds
            if not self._idle:
                self._mark = (now, cpu)
        return self._idle or cpu - self._begun[1] >= self._stuck_after


class _Call(Generic[T]):
    """A call on its way from the event loop to a thread and back."""

    def __init__(
        self, work: Callable[[], T], on_end: Callable[[], None], future: "asyncio.Future[Timed[T]]"
    ) -> None:
        self.future = future
        self._work = [work]  # empty once a thread has started it, or its caller has left
        self._on_end = on_end

    def begin(self) -> Callable[[], T] | None:
        """The work, or ``None`` if the caller has left; called in a thread."""
        return self._take()

    def give_up(self) -> None:
        """Drop the work, unless a thread has started it; called on the event loop."""
        if self._take():
            self._on_end()

    def end(self, outcome: Timed[T] | BaseException) -> None:
        """Deliver the outcome; called in the thread that ran the work."""
        with suppress(RuntimeError):  # the loop is closed: the service has stopped
            self.future.get_loop().call_soon_threadsafe(self._deliver, outcome)

    def _deliver(self, outcome: Timed[T] | BaseException) -> None:
        if not self.future.done():
            if isinstance(outcome, Timed):
                self.future.set_result(outcome)
            else:
                self.future.set_exception(outcome)
        self._on_end()

    def _take(self) -> Callable[[], T] | None:
        try:
            return self._work.pop()  # atomic: either the event loop or the thread gets it
        except IndexError:
            return None


def attempt(work: Callable[[], T]) -> Timed[T] | BaseException:
    """The result of ``work``, or the exception that it raised."""
    begun = time.monotonic()
    try:
        return Timed(work(), begun, time.monotonic())
    except BaseException as error:
        return error
