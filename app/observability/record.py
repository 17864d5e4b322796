"""The record of one request, which logs, metrics and traces are made from at its end."""

import math
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import getrandbits
from typing import Any, Protocol

from app.serving.timings import Timings
from app.serving.trace import Trace

SHOWN = 256  # characters of a client's text in logs, answers and spans


class RequestTrace(Trace, Protocol):
    """The trace of a request."""

    @property
    def ids(self) -> dict[str, str]:
        """``trace_id`` and ``span_id``, in hexadecimal."""

    @property
    def header(self) -> bytes:
        """The value of ``traceresponse``."""

    def end(self, record: "RequestRecord") -> None:
        """Add the finished request to the trace."""


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request, from its first byte to its last."""

    request_id: str
    method: str
    path: str
    timings: Timings = field(default_factory=Timings)
    endpoint: str = "unmatched"
    routine: bool = False  # see `app.http.policy.Policy`
    status: int = 0
    rejection: str | None = None
    deadline: float = math.inf  # on the clock of ``timings``
    client: str | None = None  # the name of its API key
    trace: RequestTrace | None = None

    def summary(self) -> list[Any]:
        """The arguments of `RequestMetrics.count`, as JSON can carry them."""
        trace = self.trace
        return [
            self.endpoint,
            self.status,
            self.timings.total(),
            self.timings.phases,
            self.rejection,
            self.client,
            trace.ids if trace and trace.sampled else None,
            self.timings.predictions,
        ]


def new_request_id() -> str:
    """A random id of 32 hexadecimal digits; it is not a secret."""
    return f"{getrandbits(128):032x}"


current_record: ContextVar[RequestRecord | None] = ContextVar("current_record", default=None)


def shorten(text: str, most: int = SHOWN) -> str:
    """A client's text, cut to ``most`` characters if it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"
