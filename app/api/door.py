"""What is decided of a prediction before anything else is done for it.

The middleware asks here, ahead of routing: under overload most requests are refused, and what a
refusal costs is taken from those that are served.
"""

import math
import re

from starlette.datastructures import Headers

from app.api_keys import ApiKeys
from app.errors import InvalidParameter
from app.pipeline import Pipeline
from app.record import RequestRecord

PATIENCE_HEADER = "X-Request-Timeout-Ms"


class Door:
    """Who asks, until when the answer is of use, and whether there can be one by then."""

    def __init__(self, pipeline: Pipeline, keys: ApiKeys | None) -> None:
        self._pipeline = pipeline
        self._keys = keys

    def check(self, headers: Headers, record: RequestRecord) -> None:
        """Note client and deadline of a request; raises a `ServiceError` if it is refused."""
        if self._keys:
            record.client = self._keys.name_of(headers)
        patience = parse_patience(headers.get(PATIENCE_HEADER))
        record.deadline = self._pipeline.deadline(record.timings, patience)
        self._pipeline.check(record.deadline)


def parse_patience(text: str | None) -> float:
    """The seconds that a caller gives the request; infinite where it does not say."""
    if text is None:
        return math.inf
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not int(text):
        raise InvalidParameter(
            f"{PATIENCE_HEADER} is {text[:20]!r}; it must be a number of milliseconds, at least 1"
        )
    return int(text) / 1e3
