"""What is known of one request: filled on its way, told once at its end."""

import math
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from app.serving.timings import Timings
from app.serving.trace import Trace

SHOWN = 256  # characters shown of a text that a client chose, in logs, answers and spans


class RequestTrace(Trace, Protocol):
    """The trace of a request, from its beginning to its end."""

    @property
    def ids(self) -> dict[str, str]:
        """``trace_id`` and ``span_id``, in hexadecimal."""

    @property
    def header(self) -> bytes:
        """The value of ``traceresponse``."""

    def end(self, record: "RequestRecord") -> None:
        """Write the finished request into the trace."""


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request, from its first byte to its last."""

    request_id: str
    method: str
    path: str
    timings: Timings = field(default_factory=Timings)
    endpoint: str = "unmatched"
    routine: bool = False  # polled by machines
    status: int = 0
    rejection: str | None = None
    deadline: float = math.inf  # on the clock of the timings
    client: str | None = None  # the name of its API key
    trace: RequestTrace | None = None


current_record: ContextVar[RequestRecord | None] = ContextVar("current_record", default=None)


def shorten(text: str, most: int = SHOWN) -> str:
    """A text that a client chose, cut to ``most`` characters where it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"
