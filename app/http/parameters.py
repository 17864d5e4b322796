"""Parameters of prediction requests, in the query, in headers or in the body."""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request

from app.config.settings import DEFAULT_TOP_K
from app.http.quoting import quoted
from app.serving.errors import InvalidParameter

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
MAX_QUERY = 1_000  # bytes

# Only for the OpenAPI document: FastAPI takes as long to read a declared parameter as to answer.
TIMEOUT_PARAMETER = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "description": "Milliseconds after which the client no longer needs the answer.",
    "schema": {"type": "integer", "minimum": 1},
}
PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "top_k",
        "in": "query",
        "description": (
            "Number of classes to return, from 1 to all. By default "
            f"{DEFAULT_TOP_K}, or all classes of a model with fewer."
        ),
        "schema": {"type": "integer", "minimum": 1},
    },
    TIMEOUT_PARAMETER,
]


def read_query(request: Request, *known: str, instead: str = "") -> Mapping[str, str]:
    """The parameters in a request's query, as text.

    Args:
        known: the names that the route reads.
        instead: a hint for unknown parameters, on routes with parameters in the body.

    Raises:
        InvalidParameter: a parameter is unknown or repeated, or the query is too long.
    """
    query: bytes = request.scope["query_string"]
    if not query:
        return {}
    if len(query) > MAX_QUERY:
        raise InvalidParameter(f"the query has {len(query)} bytes; the maximum is {MAX_QUERY}")
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in known:
            raise InvalidParameter(_unknown(name, known, instead))
        if name in parameters:
            raise InvalidParameter(f"duplicate query parameter {name}; send it once")
        parameters[name] = value
    return parameters


def _unknown(name: str, known: tuple[str, ...], instead: str) -> str:
    """The message about a parameter that the route does not read."""
    message = f"unknown query parameter {quoted(name)}"
    if close := difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1):
        return f"{message}; did you mean {close[0]}?"
    if instead:
        return f"{message}; {instead}"
    names = ", ".join(known) or "none"
    return f"{message}; this route reads {names}"


def parse_top_k(text: str | None, classes: int) -> int:
    """The number of classes to return; by default 5, or all if there are fewer."""
    if text is None:
        return min(DEFAULT_TOP_K, classes)
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= classes:
        raise InvalidParameter(
            f"top_k is {quoted(text, 20)}; it must be a whole number from 1 to {classes}"
        )
    return int(text)


def parse_timeout(text: str | None) -> float:
    """The timeout of a request, in seconds; infinite without the header."""
    if text is None:
        return math.inf
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not int(text):
        raise InvalidParameter(
            f"{TIMEOUT_HEADER} is {quoted(text, 20)}; "
            "it must be a whole number of milliseconds, at least 1"
        )
    return int(text) / 1e3
