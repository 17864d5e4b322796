"""What callers may say beside their images, on every route that predicts."""

import math
import re
from typing import Any

from app.errors import InvalidParameter
from app.settings import SettingsError

DEFAULT_TOP_K = 5
PATIENCE_HEADER = "X-Request-Timeout-Ms"

# Told to OpenAPI alone: what FastAPI does with a declared parameter costs as much as the answer.
PATIENCE_PARAMETER = {
    "name": PATIENCE_HEADER,
    "in": "header",
    "description": "Milliseconds after which the answer is of no use any more.",
    "schema": {"type": "integer", "minimum": 1},
}
PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "top_k",
        "in": "query",
        "description": "How many classes to answer, from 1 to the number of classes.",
        "schema": {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
    },
    PATIENCE_PARAMETER,
]


def parse_top_k(text: str | None, classes: int) -> int:
    """The count a caller wants; by default 5, or all where there are fewer."""
    if text is None:
        return min(DEFAULT_TOP_K, classes)
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not 1 <= int(text) <= classes:
        raise InvalidParameter(f"top_k is {text[:20]!r}; it must be a number from 1 to {classes}")
    return int(text)


def check_top_k(asked: int | None, classes: float) -> int:
    """As `parse_top_k`, of the flag ``--top-k``; raises `SettingsError`."""
    top_k = int(min(DEFAULT_TOP_K, classes)) if asked is None else asked
    if not 1 <= top_k <= classes:
        raise SettingsError(f"--top-k={top_k}: must be from 1 to {classes}")
    return top_k


def parse_patience(text: str | None) -> float:
    """The seconds that a caller gives the request; infinite where it does not say."""
    if text is None:
        return math.inf
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not int(text):
        raise InvalidParameter(
            f"{PATIENCE_HEADER} is {text[:20]!r}; it must be a number of milliseconds, at least 1"
        )
    return int(text) / 1e3
