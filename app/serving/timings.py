"""The time of one request by phase, and its predictions, for headers, logs, metrics and spans."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.serving.classifier import Figures

PHASES = ("read", "preprocess", "queue", "inference")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Batch:
    """One executed batch.

    Attributes:
        number: sequence number, from 1.
        thread: number of the inference thread, from 0.
        started, seconds: start and duration, on the batcher's clock.
        error: why the batch has no results.
    """

    number: int
    thread: int
    size: int
    started: float
    seconds: float
    error: Exception | None = None


@dataclass(slots=True)
class Timings:
    """Seconds by phase, on the clock of the event loop.

    Attributes:
        phases: total seconds by phase.
        intervals: phase, start and end of each summand.
        batches: the batches that classified the request's images.
        predictions: for each classified image, the SHA-256 of the checkpoint and its figures.
    """

    started: float = field(default_factory=time.monotonic)
    phases: dict[str, float] = field(default_factory=dict)
    intervals: list[tuple[str, float, float]] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    predictions: list[tuple[str, Figures]] = field(default_factory=list)

    @property
    def batch_size(self) -> int | None:
        """The size of the largest batch; ``None`` without one."""
        return max((batch.size for batch in self.batches), default=None)

    def add(self, name: str, begun: float, ended: float) -> None:
        """Add an interval to phase ``name``."""
        assert name in PHASES
        self.phases[name] = self.phases.get(name, 0.0) + ended - begun
        self.intervals.append((name, begun, ended))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a block as phase ``name``, also when it raises."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.add(name, begun, time.monotonic())

    def take_longest(self, others: Iterable["Timings"]) -> None:
        """Take each phase from the object in which it took longest: work that ran in parallel.

        Batches and predictions are taken from all.
        """
        longest: dict[str, Timings] = {}
        batches: dict[Batch, None] = {}
        for other in others:
            for name, seconds in other.phases.items():
                if name not in longest or seconds > longest[name].phases[name]:
                    longest[name] = other
            batches |= dict.fromkeys(other.batches)
            self.predictions += other.predictions
        for name, other in longest.items():
            self.phases[name] = other.phases[name]
            self.intervals += [interval for interval in other.intervals if interval[0] == name]
        self.batches += batches

    def total(self) -> float:
        return time.monotonic() - self.started

    def server_timing(self) -> str:
        """The value of the ``Server-Timing`` header, in milliseconds."""
        entries = {**self.phases, "total": self.total()}
        return ", ".join(f"{name};dur={1e3 * seconds:.2f}" for name, seconds in entries.items())
