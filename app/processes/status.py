"""The status page: shared numbers that all processes of the service see at the same moment.

Every field has one writer. A write is a single store, so readers see the old or the new value.
"""

import time
from collections.abc import Sequence

from app.config.settings import MAX_ENGINES
from app.config.values import MAX_HTTP_WORKERS
from app.observability.batches import BUCKETS, bucket_of
from app.processes.memory import SharedMemory
from app.serving.engines import EngineProgress, Progress
from app.serving.lifecycle import State

STATES = (State.LOADING, State.READY, State.DRAINING, State.FAILED)
HEARTBEAT = 0.5  # seconds between beats
ALIVE = 2.0  # seconds after the last beat for which a process counts as alive
START_SECONDS = 120.0  # for a new process to import its modules, before its first beat
# The sizes of the parts of the page, in numbers of 8 bytes.
_SERVICE, _ENGINE, _WORKER = 6, 5 + BUCKETS, 5
_ENGINES = _SERVICE
_WORKERS = _ENGINES + _ENGINE * MAX_ENGINES
PAGE_BYTES = 8 * (_WORKERS + _WORKER * MAX_HTTP_WORKERS)


class Number:
    """A whole number of a part of the page, some places after its heartbeat."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __get__(self, part: "Part", kind: object = None) -> int:
        return part.numbers[part.place + self._place]

    def __set__(self, part: "Part", number: int) -> None:
        part.numbers[part.place + self._place] = number


class Flag(Number):
    """A number that is 0 or 1."""

    def __get__(self, part: "Part", kind: object = None) -> bool:
        return bool(super().__get__(part))


class Part:
    """The heartbeat and the numbers of one process.

    Args:
        place: of the heartbeat in the page.
    """

    def __init__(self, numbers: "memoryview[int]", times: "memoryview[float]", place: int) -> None:
        self.numbers = numbers
        self.times = times
        self.place = place

    def beat(self) -> None:
        """Note that the process is alive."""
        self.times[self.place] = time.monotonic()

    def start(self) -> None:
        """Note that the process is starting: it has `START_SECONDS` until its first beat."""
        self.times[self.place] = time.monotonic() + START_SECONDS

    @property
    def silence(self) -> float:
        """Seconds since the last beat; negative while the process starts."""
        return time.monotonic() - self.times[self.place]


class StatusPage(Part):
    """The page, mapped into this process. Its own part is that of the supervisor.

    Attributes:
        refusing: whether new requests are refused although the service still answers others.
        model: the generation of the model that serves; 0 while the first one loads.
        engines: the number of engines.
        workers: the number of workers, whether they run or are being replaced.
    """

    _state = Number(1)
    refusing = Flag(2)
    model = Number(3)
    engines = Number(4)
    workers = Number(5)

    def __init__(self, memory: SharedMemory) -> None:
        page = memory.view[:PAGE_BYTES]
        super().__init__(page.cast("Q"), page.cast("d"), place=0)
        self._known_workers: list[WorkerStatus] = []

    @property
    def state(self) -> State:
        return STATES[self._state]

    @state.setter
    def state(self, state: State) -> None:
        self._state = STATES.index(state)

    def each_worker(self) -> "Sequence[WorkerStatus]":
        """The numbers of all workers."""
        for number in range(len(self._known_workers), self.workers):
            self._known_workers.append(self.worker(number))
        return self._known_workers

    def progress(self, devices: Sequence[str]) -> Progress:
        """The progress of the engines, each with its device."""
        engines = [self.engine(number) for number in range(len(devices))]
        return Progress(
            tuple(
                EngineProgress(
                    device=device,
                    queue_depth=engine.queue_depth,
                    images_total=engine.images,
                    batches_total=engine.batches,
                )
                for device, engine in zip(devices, engines, strict=True)
            )
        )

    @property
    def alive(self) -> bool:
        """Whether the supervisor and all engines are alive."""
        watched = (self, *(self.engine(number) for number in range(self.engines)))
        return all(part.silence < ALIVE for part in watched)

    def engine(self, number: int) -> "EngineStatus":
        return EngineStatus(self.numbers, self.times, _ENGINES + _ENGINE * number)

    def worker(self, number: int) -> "WorkerStatus":
        return WorkerStatus(self.numbers, self.times, _WORKERS + _WORKER * number)


class EngineStatus(Part):
    """An engine's heartbeat, queue and `app.observability.batches.BatchCounts`.

    Attributes:
        queue_depth: images that wait for a batch.
    """

    queue_depth = Number(1)
    images = Number(2)
    padding = Number(3)

    @property
    def busy_seconds(self) -> float:
        """Seconds spent on batches, summed over all inference threads."""
        return self.times[self.place + 4]

    @property
    def by_size(self) -> Sequence[int]:
        """The number of batches in each bucket of sizes."""
        begin = self.place + 5
        return self.numbers[begin : begin + BUCKETS].tolist()

    @property
    def batches(self) -> int:
        return sum(self.by_size)

    def add(self, size: int, padding: int, seconds: float) -> None:
        """Count a batch."""
        self.images += size
        self.padding += padding
        self.times[self.place + 4] += seconds
        self.numbers[self.place + 5 + bucket_of(size)] += 1


class WorkerStatus(Part):
    """A worker's heartbeat, connections and bytes of request bodies.

    Attributes:
        running: whether the worker accepts connections.
        stuck_decoders: decoding threads whose image does not end.
    """

    running = Flag(1)
    connections = Number(2)
    held_bytes = Number(3)
    stuck_decoders = Number(4)

    def clear(self) -> None:
        """Forget a worker that has ended."""
        self.running, self.connections, self.held_bytes, self.stuck_decoders = False, 0, 0, 0
