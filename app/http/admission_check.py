"""The admission check of predictions: their deadline, and whether it can be met.

It runs before the body is read: under overload most requests are refused, and the cost of a
refusal is taken from those that are served.
"""

from starlette.datastructures import Headers

from app.http.parameters import TIMEOUT_HEADER, parse_timeout
from app.observability.record import RequestRecord
from app.serving.pipeline import Pipeline


def check_admission(pipeline: Pipeline, headers: Headers, record: RequestRecord) -> None:
    """Record a request's deadline; raises a `ServiceError` if it cannot be served by then."""
    timeout = parse_timeout(headers.get(TIMEOUT_HEADER))
    record.deadline = pipeline.deadline(record.timings, timeout)
    pipeline.check(record.deadline)
