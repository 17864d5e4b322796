"""The status page: shared numbers that all processes of the service see at the same moment.

Every field has one writer. A write is a single store, so readers see the old or the new value.
"""

import time
from collections.abc import Sequence

from app.observability.batches import BUCKETS, bucket_of
from app.processes.memory import SharedMemory
from app.serving.engines import EngineProgress, Progress
from app.serving.lifecycle import State

STATES = (State.LOADING, State.READY, State.DRAINING, State.FAILED)
HEARTBEAT = 0.5  # seconds between beats
ALIVE = 2.0  # seconds after the last beat for which a process counts as alive
START_SECONDS = 120.0  # for a new process to import its modules, before its first beat
PAGE_BYTES = 16384
MAX_ENGINES = 16
MAX_WORKERS = 256
# The parts of the page, in numbers of 8 bytes.
_SERVICE, _ENGINES, _ENGINE_SIZE, _WORKER_SIZE = 0, 8, 5 + BUCKETS, 5
_WORKERS = _ENGINES + _ENGINE_SIZE * MAX_ENGINES


class StatusPage:
    """The page, mapped into this process.

    Written by the supervisor: the state, whether requests are refused, the generation of the model
    that serves, and which workers run. Written by each engine and worker: its own numbers.
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._numbers = memory.view[:PAGE_BYTES].cast("Q")
        self._times = memory.view[:PAGE_BYTES].cast("d")
        self._known_workers: list[WorkerStatus] = []

    @property
    def state(self) -> State:
        return STATES[self._numbers[_SERVICE]]

    @state.setter
    def state(self, state: State) -> None:
        self._numbers[_SERVICE] = STATES.index(state)

    @property
    def refusing(self) -> bool:
        """Whether new requests are refused although the service still answers others."""
        return bool(self._numbers[_SERVICE + 1])

    @refusing.setter
    def refusing(self, refusing: bool) -> None:
        self._numbers[_SERVICE + 1] = refusing

    @property
    def model(self) -> int:
        """The generation of the model that serves; 0 while the first one loads."""
        return self._numbers[_SERVICE + 2]

    @model.setter
    def model(self, generation: int) -> None:
        self._numbers[_SERVICE + 2] = generation

    def beat(self) -> None:
        """Note that the supervisor is alive."""
        self._times[_SERVICE + 3] = time.monotonic()

    @property
    def engines(self) -> int:
        """The number of engines."""
        return self._numbers[_SERVICE + 4]

    @engines.setter
    def engines(self, engines: int) -> None:
        self._numbers[_SERVICE + 4] = engines

    @property
    def workers(self) -> int:
        """The number of workers, whether they run or are being replaced."""
        return self._numbers[_SERVICE + 5]

    @workers.setter
    def workers(self, workers: int) -> None:
        self._numbers[_SERVICE + 5] = workers

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
        supervised = time.monotonic() - self._times[_SERVICE + 3] < ALIVE
        return supervised and all(
            self.engine(number).silence < ALIVE for number in range(self.engines)
        )

    def engine(self, number: int) -> "EngineStatus":
        return EngineStatus(self._numbers, self._times, _ENGINES + _ENGINE_SIZE * number)

    def worker(self, number: int) -> "WorkerStatus":
        return WorkerStatus(self._numbers, self._times, _WORKERS + _WORKER_SIZE * number)


class _Part:
    """The numbers of one process."""

    def __init__(self, numbers: "memoryview[int]", times: "memoryview[float]", place: int) -> None:
        self._numbers = numbers
        self._times = times
        self._place = place

    def beat(self) -> None:
        """Note that the process is alive."""
        self._times[self._place] = time.monotonic()

    def start(self) -> None:
        """Note that the process is starting: it has `START_SECONDS` until its first beat."""
        self._times[self._place] = time.monotonic() + START_SECONDS

    @property
    def silence(self) -> float:
        """Seconds since the last beat; negative while the process starts."""
        return time.monotonic() - self._times[self._place]


class EngineStatus(_Part):
    """An engine's heartbeat, queue and `app.observability.batches.BatchCounts`."""

    @property
    def queue_depth(self) -> int:
        """Images that wait for a batch."""
        return self._numbers[self._place + 1]

    @queue_depth.setter
    def queue_depth(self, depth: int) -> None:
        self._numbers[self._place + 1] = depth

    @property
    def images(self) -> int:
        """Images that have been classified."""
        return self._numbers[self._place + 2]

    @property
    def padding(self) -> int:
        """Rows computed only as padding."""
        return self._numbers[self._place + 3]

    @property
    def busy_seconds(self) -> float:
        """Seconds spent on batches, summed over all inference threads."""
        return self._times[self._place + 4]

    @property
    def by_size(self) -> Sequence[int]:
        """The number of batches in each bucket of sizes."""
        begin = self._place + 5
        return self._numbers[begin : begin + BUCKETS].tolist()

    @property
    def batches(self) -> int:
        return sum(self.by_size)

    def add(self, size: int, padding: int, seconds: float) -> None:
        """Count a batch."""
        self._numbers[self._place + 2] += size
        self._numbers[self._place + 3] += padding
        self._times[self._place + 4] += seconds
        self._numbers[self._place + 5 + bucket_of(size)] += 1


class WorkerStatus(_Part):
    """A worker's heartbeat, connections and bytes of request bodies."""

    @property
    def running(self) -> bool:
        """Whether the worker accepts connections."""
        return bool(self._numbers[self._place + 1])

    @running.setter
    def running(self, running: bool) -> None:
        self._numbers[self._place + 1] = running

    @property
    def connections(self) -> int:
        return self._numbers[self._place + 2]

    @connections.setter
    def connections(self, connections: int) -> None:
        self._numbers[self._place + 2] = connections

    @property
    def held_bytes(self) -> int:
        return self._numbers[self._place + 3]

    @held_bytes.setter
    def held_bytes(self, held: int) -> None:
        self._numbers[self._place + 3] = held

    @property
    def stuck_decoders(self) -> int:
        """Decoding threads whose image does not end."""
        return self._numbers[self._place + 4]

    @stuck_decoders.setter
    def stuck_decoders(self, count: int) -> None:
        self._numbers[self._place + 4] = count

    def clear(self) -> None:
        """Forget a worker that has ended."""
        self.running, self.connections, self.held_bytes, self.stuck_decoders = False, 0, 0, 0
