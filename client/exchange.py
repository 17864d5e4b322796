"""HTTP as both clients speak it: what goes out, and what an answer or its absence means."""

import re
import time
from contextlib import suppress
from dataclasses import fields
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from client.errors import (
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
from client.reasons import reason_of
from client.results import Health, Model, Prediction, Row, ServedModel

TIMEOUT = 30.0  # seconds
_IDLE_SECONDS = 4.0  # the service closes a connection after 5, and a request then is lost
_MEMBERS = ("type", "title", "detail", "request_id")  # of a problem document
_OF_THE_IMAGE = {
    "/problems/body-too-large",
    "/problems/image-too-large",
    "/problems/invalid-image",
    "/problems/unsupported-media-type",
}
# What an answer that is no JSON, or none of ours, leads to.
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_BY_STATUS: dict[int, type[ServiceError]] = {
    401: Unauthorized,
    429: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}

Value = TypeVar("Value", Health, ServedModel)


def check_url(url: str) -> str:
    """The URL of a service without a slash at its end; raises `InvalidOption` if it is none."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise InvalidOption(f"{url!r} is no URL: {error}") from error
    if parsed.userinfo:  # and a password is not to be repeated
        raise InvalidOption("the URL names a user; leave it out, and give an API key")
    port = 1 if parsed.port is None else parsed.port
    host = re.fullmatch(rb"[\w.:-]+", parsed.raw_host)
    if parsed.scheme not in {"http", "https"} or not host or not 1 <= port <= 65535:
        raise InvalidOption(f"{url!r} is no URL of a service; expected such as http://HOST:8000")
    if parsed.query or parsed.fragment:
        raise InvalidOption(f"the URL {url!r} has a query or a fragment; leave them out")
    return str(parsed).rstrip("/")


def key_header(api_key: str | None) -> dict[str, str]:
    """The header that shows the key, if there is one; raises `InvalidOption` if none can."""
    if api_key is None:
        return {}
    if not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
        raise InvalidOption("the API key is empty, or not of printable ASCII characters")
    return {"Authorization": f"Bearer {api_key.strip()}"}


def options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """Of an HTTP client of the service; raises `InvalidOption`.

    Its connections are as many as its callers, and each is kept for the next request.
    """
    if not 0 < timeout < float("inf"):
        raise InvalidOption(f"timeout is {timeout}; it must be seconds over 0")
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
        raise InvalidOption(f"concurrency is {concurrency}; it must be 1 or more")
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
    """Why there is none, in our terms."""
    if isinstance(error, httpx.ConnectTimeout):
        return Unreachable(f"cannot reach {url}: no connection within {timeout:g} s")
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{url} did not answer within {timeout:g} s")
    if isinstance(error, httpx.ConnectError):
        return Unreachable(f"cannot reach {url}: {_reason(error)}; is the service running?")
    return Unreachable(f"the connection to {url} broke before the answer: {_reason(error)}")


def _reason(error: httpx.RequestError) -> str:
    """What the operating system says, further down a chain of errors, or else the error itself."""
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
    """Raises `ServiceError` for a problem document, `UnexpectedAnswer` for what is no success."""
    if response.status_code == 200:
        return
    retry_after = parse_retry_after(response.headers.get("Retry-After"))
    where = f"{response.request.method} {response.url.copy_with(query=None)}"
    status = response.status_code
    if response.is_redirect:
        target = response.headers["Location"]
        raise UnexpectedAnswer(f"{where} leads to {target}; give the URL there", status)
    try:
        problem = response.json()
        kind, title, detail, request_id = (str(problem[name]) for name in _MEMBERS)
    except _MALFORMED as mistake:
        raise UnexpectedAnswer(
            f"{where} answered {status} without a problem document; is it xcit-serve?",
            status,
            retry_after,
        ) from mistake
    error = ImageRefused if kind in _OF_THE_IMAGE else _BY_STATUS.get(status, ServiceError)
    raise error(status, kind, title, detail, request_id, retry_after)


def read_prediction(response: httpx.Response) -> Prediction:
    """Raises `UnexpectedAnswer` if it is none."""
    try:
        answer = response.json()
        model = answer["model"]
        rows = tuple(
            Row(int(row["class_id"]), str(row["label"]), float(row["score"]), row.get("synset"))
            for row in answer["predictions"]
        )
        if not rows:
            raise ValueError("no class")
        return Prediction(
            Model(str(model["name"]), str(model["version"])),
            rows,
            parse_server_timing(response.headers.get("Server-Timing", "")),
            response.headers.get("X-Request-ID", ""),
        )
    except _MALFORMED as mistake:
        raise _unexpected(response, "a prediction") from mistake


def read_health(response: httpx.Response) -> Health:
    """Raises `UnexpectedAnswer` if it is none."""
    try:
        answer = response.json()
        model = answer["model"] and _pick(ServedModel, answer["model"])
        return _pick(Health, {**answer, "model": model})
    except _MALFORMED as mistake:
        raise _unexpected(response, "a health report") from mistake


def read_picture(response: httpx.Response) -> bytes:
    """Raises `UnexpectedAnswer` if it is none."""
    if response.headers.get("Content-Type") != "image/png":
        raise _unexpected(response, "a PNG")
    return response.content


def parse_server_timing(text: str) -> dict[str, float]:
    """Milliseconds by name; entries without a duration do not count."""
    timings = {}
    for entry in text.split(","):
        name, *parameters = entry.split(";")
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "dur":
                with suppress(ValueError):  # of somebody in between
                    timings[name.strip()] = float(value)
    return timings


def parse_retry_after(text: str | None) -> float | None:
    """Seconds, told as such or as a date; ``None`` where neither is."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _pick(kind: type[Value], values: dict[str, Any]) -> Value:
    """The dataclass out of what it knows of ``values``: a newer service may tell more."""
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def _unexpected(response: httpx.Response, what: str) -> UnexpectedAnswer:
    kind = response.headers.get("Content-Type", "no type")
    where = f"{response.request.method} {response.url.copy_with(query=None)}"
    return UnexpectedAnswer(
        f"{where} answered with {kind} that is not {what}; is it xcit-serve?", response.status_code
    )
