"""The requests of both clients, and the parsing of answers and errors."""

import re
import time
from contextlib import suppress
from dataclasses import MISSING, fields
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from xcit_client.errors import (
    ClientError,
    DeadlineExceeded,
    ImageRefused,
    InvalidOption,
    ServiceError,
    TimedOut,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from xcit_client.os_errors import reason_of
from xcit_client.results import Engine, Health, Model, Prediction, Row, ServedModel

TIMEOUT = 30.0  # seconds
_IDLE_SECONDS = 4.0  # less than the 5 s after which the service closes an idle connection
_PROBLEM_MEMBERS = ("type", "title", "detail", "request_id")
_IMAGE_PROBLEMS = {
    "/problems/body-too-large",
    "/problems/image-too-large",
    "/problems/invalid-image",
    "/problems/unsupported-media-type",
}
# Exceptions from parsing an answer that does not come from xcit-serve.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_BY_STATUS: dict[int, type[ServiceError]] = {
    401: Unauthorized,
    429: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}

Value = TypeVar("Value", Engine, Health, ServedModel)


def check_url(url: str) -> str:
    """The URL of a service without a trailing slash; raises `InvalidOption`."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidOption(f"invalid URL {str(url)!r}: {error}") from error
    if parsed.userinfo:  # may contain a password, so the message does not repeat the URL
        raise InvalidOption("the URL contains a user name; remove it and pass api_key instead")
    port = 1 if parsed.port is None else parsed.port
    host = re.fullmatch(rb"[\w.:-]+", parsed.raw_host)
    if parsed.scheme not in {"http", "https"} or not host or not 1 <= port <= 65535:
        raise InvalidOption(f"invalid service URL {url!r}; expected for example http://HOST:8000")
    if parsed.query or parsed.fragment:
        raise InvalidOption(f"the URL {url!r} has a query or a fragment; remove it")
    return str(parsed).rstrip("/")


def key_header(api_key: str | None) -> dict[str, str]:
    """The ``Authorization`` header for an API key; raises `InvalidOption` if it is not valid."""
    if api_key is None:
        return {}
    if not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
        raise InvalidOption("the API key must be one or more printable ASCII characters")
    return {"Authorization": f"Bearer {api_key.strip()}"}


def options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """Arguments for httpx's clients; raises `InvalidOption`.

    Each concurrent request has a connection, which is kept for the next request.
    """
    if not 0 < timeout < float("inf"):
        raise InvalidOption(f"timeout is {timeout}; expected more than 0 seconds")
    return {
        "base_url": check_url(url),
        "headers": {
            "User-Agent": "xcit-serve-client",
            "Accept-Encoding": "identity",
            **key_header(api_key),
        },
        "timeout": timeout,
        "limits": httpx.Limits(keepalive_expiry=_IDLE_SECONDS),
    }


def check_concurrency(concurrency: int) -> int:
    if concurrency < 1:
        raise InvalidOption(f"concurrency is {concurrency}; expected 1 or more")
    return concurrency


def predict_request(image: bytes, top_k: int | None) -> dict[str, Any]:
    return _post("/predict", image, {} if top_k is None else {"top_k": top_k})


def explain_request(image: bytes, head: int | None) -> dict[str, Any]:
    return _post("/explain", image, {} if head is None else {"head": head})


def health_request() -> dict[str, Any]:
    return {"method": "GET", "url": "/healthz"}


def _post(path: str, image: bytes, params: dict[str, int]) -> dict[str, Any]:
    return {
        "method": "POST",
        "url": path,
        "params": params,
        "content": image,
        "headers": {"Content-Type": "application/octet-stream"},
    }


def no_answer(error: httpx.RequestError, url: str, timeout: float) -> ClientError:
    """The client error for an httpx error."""
    if isinstance(error, httpx.ConnectTimeout):
        return Unreachable(f"cannot reach {url}: no connection within {timeout:g} s")
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{url} did not answer within {timeout:g} s")
    if isinstance(error, httpx.ConnectError):
        return Unreachable(f"cannot reach {url}: {_reason(error)}; is the service running?")
    return Unreachable(f"the connection to {url} broke before the answer: {_reason(error)}")


def _reason(error: httpx.RequestError) -> str:
    """The message of the underlying operating system error, or of the error itself."""
    cause: BaseException | None = error if isinstance(error, httpx.NetworkError) else None
    while cause is not None:
        if isinstance(cause, OSError) and (reason := reason_of(cause)):
            return reason
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or cause.__context__
    return str(error)


def raise_unless_ok(response: httpx.Response) -> None:
    """Raises `ServiceError` for a problem document, `UnexpectedAnswer` for any other failure."""
    if response.status_code == 200:
        return
    retry_after = parse_retry_after(response.headers.get("Retry-After"))
    where = f"{response.request.method} {response.url.copy_with(query=None)}"
    status = response.status_code
    if response.is_redirect:
        target = response.headers["Location"]
        raise UnexpectedAnswer(f"{where} redirects to {target}; use that URL", status)
    try:
        problem = response.json()
        kind, title, detail, request_id = (str(problem[name]) for name in _PROBLEM_MEMBERS)
    except _MALFORMED as cause:
        raise UnexpectedAnswer(
            f"{where} answered {status} without a problem document; is it xcit-serve?",
            status,
            retry_after,
        ) from cause
    error = ImageRefused if kind in _IMAGE_PROBLEMS else _BY_STATUS.get(status, ServiceError)
    raise error(status, kind, title, detail, request_id, retry_after)


def read_prediction(response: httpx.Response) -> Prediction:
    """Raises `UnexpectedAnswer` if the answer has another format."""
    try:
        answer = response.json()
        model = answer["model"]
        rows = tuple(
            Row(int(row["class_id"]), str(row["label"]), float(row["score"]), row.get("synset"))
            for row in answer["predictions"]
        )
        if not rows:
            raise ValueError("no classes")
        return Prediction(
            Model(str(model["name"]), str(model["version"])),
            rows,
            parse_server_timing(response.headers.get("Server-Timing", "")),
            response.headers.get("X-Request-ID", ""),
        )
    except _MALFORMED as cause:
        raise _unexpected(response, "a prediction") from cause


def read_health(response: httpx.Response) -> Health:
    """Raises `UnexpectedAnswer` if the answer has another format."""
    try:
        answer = response.json()
        model = answer["model"] and _pick(ServedModel, answer["model"])
        engines = tuple(_pick(Engine, engine) for engine in answer.get("engines", ()))
        return _pick(Health, {**answer, "model": model, "engines": engines})
    except _MALFORMED as cause:
        raise _unexpected(response, "a health report") from cause


def read_picture(response: httpx.Response) -> bytes:
    """Raises `UnexpectedAnswer` if the answer has another format."""
    if response.headers.get("Content-Type") != "image/png":
        raise _unexpected(response, "a PNG")
    return response.content


def parse_server_timing(text: str) -> dict[str, float]:
    """Milliseconds by name; entries without a duration are left out."""
    timings = {}
    for entry in text.split(","):
        name, *parameters = entry.split(";")
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "dur":
                with suppress(ValueError):  # a proxy may have added invalid entries
                    timings[name.strip()] = float(value)
    return timings


def parse_retry_after(text: str | None) -> float | None:
    """Seconds from a number or a date; ``None`` if the header is missing or invalid."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _pick(kind: type[Value], values: dict[str, Any]) -> Value:
    """Make a dataclass from ``values``, which newer services have more of, and older ones fewer."""
    needed = (each for each in fields(kind) if each.name in values or each.default is MISSING)
    return kind(**{field.name: values[field.name] for field in needed})


def _unexpected(response: httpx.Response, what: str) -> UnexpectedAnswer:
    kind = response.headers.get("Content-Type", "no type")
    where = f"{response.request.method} {response.url.copy_with(query=None)}"
    return UnexpectedAnswer(
        f"{where} answered with {kind} that is not {what}; is it xcit-serve?", response.status_code
    )
