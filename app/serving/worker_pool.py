"""Threads that run calls. None is lost for good to a call that never ends."""

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
    """A clock, for any thread, of the seconds that the calling thread has computed.

    Where the system has no such clock (macOS, Windows) it is the time of day that passes.
    """
    if sys.platform == "linux":
        return partial(time.clock_gettime, time.pthread_getcpuclockid(threading.get_ident()))
    return time.monotonic


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """The result of a call, with when a thread began it and when it ended, in seconds."""

    result: T
    begun: float
    ended: float


class WorkerPool:
    """Runs calls in ``workers`` threads.

    A thread cannot be ended from outside. So a thread whose call is stuck (see `Watch`) is
    replaced, and ends when its call does. There are at most ``2 * workers`` threads; after that,
    each further stuck call takes a worker away. When all threads are stuck, no call can run any
    more, and ``on_lost`` is called with the reason.

    Args:
        name: of the threads, and of what they run, in messages.
        stuck_after: seconds of computing, or of not computing at all, after which a call is stuck.
        clock: seconds, monotonic.
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
        self._lock = threading.Lock()  # of the threads and their watches
        self._threads: dict[object, Watch | None] = {}  # the watch of its call, while one runs
        self._stuck: set[object] = set()

    async def run(
        self, work: Callable[[], T], on_end: Callable[[], None] = lambda: None
    ) -> Timed[T]:
        """The result of ``work`` in one of the threads.

        If the caller is cancelled, its work leaves the queue. Work that has begun runs to its end.

        Args:
            on_end: called on the event loop once the work has ended or left the queue, and no
                thread refers to it any more.
        """
        self.count_stuck()
        loop = asyncio.get_running_loop()
        call = _Call(work, on_end, loop.create_future())
        self._calls.put(call)
        try:
            return await call.future
        finally:
            call.give_up()
            del call  # an error in its future would refer to itself through this frame

    def count_stuck(self) -> int:
        """Count the stuck calls, and replace the threads of those that are new."""
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
        """Cancel the waiting calls, and end each thread after the call that it runs."""
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
        """The life of a thread."""
        cpu = self._cpu_clock()
        staying = True
        while staying and (call := self._calls.get()):
            if work := call.begin():
                with self._lock:
                    self._threads[key] = Watch(self._stuck_after, self._clock, cpu)
                outcome = attempt(work)
                del work
                staying = self._finish_call(key)
                call.end(outcome)
                del outcome
            del call  # else it would be kept until the next one comes
        with self._lock:
            self._threads.pop(key, None)

    def _finish_call(self, key: object) -> bool:
        """Note that a thread's call has ended; returns whether the thread is still needed."""
        with self._lock:
            self._stuck.discard(key)
            if len(self._threads) - len(self._stuck) > self._size:
                del self._threads[key]
                return False
            self._threads[key] = None
            return True


class Watch:
    """Decides whether the call that a thread begins now is stuck.

    A call is stuck when its thread has computed for ``stuck_after`` seconds, or has hardly computed
    for as long, because it waits for something that never happens. Elapsed time alone is no sign:
    calls that share cores or the interpreter lock take longer without being stuck.
    """

    HARDLY = 1e-3  # of the elapsed time; a hundred threads on one core get ten times as much

    def __init__(self, stuck_after: float, clock: Clock, cpu: Clock) -> None:
        self._stuck_after = stuck_after
        self._clock = clock
        self._cpu = cpu
        self._begun = (clock(), cpu())
        self._mark = self._begun  # when the thread was last seen to have computed
        self._idle = False

    def is_stuck(self) -> bool:
        now = self._clock()
        if now - self._begun[0] < self._stuck_after:
            return False
        cpu = self._cpu()
        seconds, computed = now - self._mark[0], cpu - self._mark[1]
        if seconds >= self._stuck_after:
            self._idle = computed < self.HARDLY * seconds
            if not self._idle:
                self._mark = (now, cpu)
        return self._idle or cpu - self._begun[1] >= self._stuck_after


class _Call(Generic[T]):
    """A call on its way from the event loop to a thread and back."""

    def __init__(
        self, work: Callable[[], T], on_end: Callable[[], None], future: "asyncio.Future[Timed[T]]"
    ) -> None:
        self.future = future
        self._work = [work]  # empty once a thread has begun it, or its caller has given up
        self._on_end = on_end

    def begin(self) -> Callable[[], T] | None:
        """In a thread: the work, or ``None`` if nobody waits for it."""
        return self._take()

    def give_up(self) -> None:
        """On the event loop: drop the work, unless a thread has begun it."""
        if self._take():
            self._on_end()

    def end(self, outcome: Timed[T] | BaseException) -> None:
        """In the thread that has begun it."""
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
            return self._work.pop()  # one of two threads gets it
        except IndexError:
            return None


def attempt(work: Callable[[], T]) -> Timed[T] | BaseException:
    """What ``work`` returned or raised."""
    begun = time.monotonic()
    try:
        return Timed(work(), begun, time.monotonic())
    except BaseException as error:
        return error
