"""The trace of the request that is being served, as far as serving an image needs it."""

from contextvars import ContextVar
from typing import Protocol


class Trace(Protocol):
    """A traced request; see `app.observability.tracing`."""

    @property
    def sampled(self) -> bool:
        """Whether the trace is recorded."""

    def note(self, error: Exception) -> None:
        """Record why something could not be answered."""


current_trace: ContextVar[Trace | None] = ContextVar("current_trace", default=None)
