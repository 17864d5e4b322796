"""Where the time of one request went. One object feeds headers, log line and histograms."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PHASES = ("read", "preprocess", "queue", "inference")


@dataclass(slots=True)
class Timings:
    """Seconds by phase, on the clock of the event loop."""

    started: float = field(default_factory=time.monotonic)
    phases: dict[str, float] = field(default_factory=dict)
    batch_size: int | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a block as phase ``name``, also when it raises."""
        assert name in PHASES
        begun = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = time.monotonic() - begun

    def take_longest(self, others: Iterable["Timings"]) -> None:
        """Of work that went on side by side: each phase as of who took longest in it."""
        for other in others:
            for name, seconds in other.phases.items():
                self.phases[name] = max(seconds, self.phases.get(name, 0.0))
            if other.batch_size is not None:
                self.batch_size = max(other.batch_size, self.batch_size or 0)

    def total(self) -> float:
        return time.monotonic() - self.started

    def server_timing(self) -> str:
        """The value of the ``Server-Timing`` header, in milliseconds."""
        entries = {**self.phases, "total": self.total()}
        return ", ".join(f"{name};dur={1e3 * seconds:.2f}" for name, seconds in entries.items())
