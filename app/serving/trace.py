"""The trace of the current request, as the serving code sees it."""

from contextvars import ContextVar
from typing import Protocol


class Trace(Protocol):
    """A traced request; see `app.observability.tracing`."""

    @property
    def sampled(self) -> bool:
        """Whether the trace is recorded."""

    @property
    def packed(self) -> bytes:
        """The span for another process, in 25 bytes; empty if it is not recorded."""

    def note(self, error: Exception) -> None:
        """Record an error of the request."""


current_trace: ContextVar[Trace | None] = ContextVar("current_trace", default=None)
