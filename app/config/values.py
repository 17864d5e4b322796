"""Validators of settings; each raises `ValueError` with what the value must be."""

import json
import re
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

MAX_HTTP_WORKERS = 64
ROOT_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~-]+)*", re.ASCII)


def check_device(value: str) -> str:
    """Check the name of a device."""
    kind, _, index = value.partition(":")
    if kind not in {"auto", "cpu", "cuda", "mps"} or (index and not index.isdigit()):
        raise ValueError("must be auto, cpu, cuda, cuda:N or mps")
    return value


def check_workers(value: Any) -> Any:
    """The number of HTTP workers, or ``auto``."""
    text = str(value).strip()
    if text == "auto":
        return text
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_HTTP_WORKERS):
        raise ValueError(f"must be auto or a whole number from 0 to {MAX_HTTP_WORKERS}")
    return int(text)


def check_root_path(value: str) -> str:
    """A path prefix without a slash at its end."""
    path = value.removesuffix("/")
    if not ROOT_PATH.fullmatch(path):
        raise ValueError("must be a path of letters, digits and -._~, such as /models/xcit")
    return path


def parse_object(value: Any) -> Any:
    """The object in a JSON text; any other value is returned unchanged."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("must be a JSON object")
    return found


# Parsed by the validator: pydantic-settings itself would parse only environment variables.
JsonObject = Annotated[dict[str, Any] | None, NoDecode, BeforeValidator(parse_object)]
