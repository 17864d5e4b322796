"""What is known of one request: filled on its way, told once at its end."""

import math
from contextvars import ContextVar
from dataclasses import dataclass, field

from app.timings import Timings


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request, from its first byte to its last."""

    request_id: str
    method: str
    path: str
    timings: Timings = field(default_factory=Timings)
    endpoint: str = "unmatched"
    status: int = 0
    rejection: str | None = None
    deadline: float = math.inf  # on the clock of the timings
    client: str | None = None  # the name of its API key


current_record: ContextVar[RequestRecord | None] = ContextVar("current_record", default=None)
