"""Parameters of requests for predictions: in the query, in headers, or beside the images."""

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
MOST_QUERY = 1_000  # bytes

# Only described to OpenAPI: reading a declared parameter costs FastAPI as much as the answer.
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
            "How many classes to answer, from 1 to the number of classes. By default "
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
        instead: how to say to the route what others are told in the query.

    Raises:
        InvalidParameter: one is unknown or given twice, or the query is long.
    """
    query: bytes = request.scope["query_string"]
    if not query:
        return {}
    if len(query) > MOST_QUERY:
        raise InvalidParameter(f"the query has {len(query)} bytes; at most {MOST_QUERY} are read")
    given: dict[str, str] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in known:
            raise InvalidParameter(_unknown(name, known, instead))
        if name in given:
            raise InvalidParameter(f"{name} is given twice in the query; give it once")
        given[name] = value
    return given


def _unknown(name: str, known: tuple[str, ...], instead: str) -> str:
    """The message about a parameter that the route does not read."""
    message = f"unknown query parameter {quoted(name)}"
    if close := difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1):
        return f"{message}; did you mean {close[0]}?"
    if instead:
        return f"{message}; {instead}"
    there = ", ".join(known) or "none"
    return f"{message}; this route reads {there}"


def parse_top_k(text: str | None, classes: int) -> int:
    """The number of classes to answer; by default 5, or all where there are fewer."""
    if text is None:
        return min(DEFAULT_TOP_K, classes)
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= classes:
        raise InvalidParameter(
            f"top_k is {quoted(text, 20)}; it must be a number from 1 to {classes}"
        )
    return int(text)


def parse_timeout(text: str | None) -> float:
    """The timeout that a client gives its request, in seconds; infinite if it gives none."""
    if text is None:
        return math.inf
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not int(text):
        raise InvalidParameter(
            f"{TIMEOUT_HEADER} is {quoted(text, 20)}; "
            "it must be a number of milliseconds, at least 1"
        )
    return int(text) / 1e3
