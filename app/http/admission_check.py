"""What is decided of a prediction before anything else is done for it.

The middleware asks here, ahead of routing: under overload most requests are refused, and what a
refusal costs is taken from those that are served.
"""

from starlette.datastructures import Headers

from app.http.api_keys import ApiKeys
from app.http.parameters import PATIENCE_HEADER, parse_patience
from app.observability.record import RequestRecord
from app.serving.pipeline import Pipeline


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
