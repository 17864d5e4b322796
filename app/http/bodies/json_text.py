"""Parsing of JSON bodies, in steps.

A large body consists mostly of base64 images and of numbers. These are lifted out and replaced by
tokens, so that the parser gets a small text. Its size matters because the parser holds the
interpreter lock from start to end, and kilobytes can become gigabytes of objects.
"""

import difflib
import re
import secrets
from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, ValidationInfo
from pydantic_core import from_json

from app.http.bodies.number_text import read_numbers
from app.http.quoting import printable
from app.serving.errors import BadRequest
from app.serving.side_thread import PIECE, Steps

SMALL = 16 * 2**10  # smaller texts are parsed unchanged, in bytes
LONG_STRING = 100  # longer strings are lifted, in bytes
LONG_NUMBERS = 2_048  # lists of numbers from this size on are lifted, in bytes
MAX_REST = 16 * 2**10  # bytes that may remain of a text
MAX_REST_PER_ROW = 120  # further bytes that may remain per image
MAX_TEXT = 1_000  # characters of a name or an id

BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{")
_COLON = re.compile(rb"\s*:")
_STRING = re.compile(rb'(?:[^"\\]++|\\(?:u[0-9a-fA-F]{4}|[^u]))*+', re.DOTALL)

Body = TypeVar("Body", bound=BaseModel)


class Lifted:
    """Strings and numbers that were lifted out of a text, by the tokens that replace them."""

    def __init__(self, text: bytes = b"") -> None:
        self._text = text
        self._name = secrets.token_hex(8) if text else ""  # cannot be guessed by clients
        self._strings: dict[str, list[int]] = {}
        self._numbers: dict[str, array[float]] = {}

    def add_string(self, cuts: list[int]) -> bytes:
        """Add the string between ``cuts``; returns its token as JSON."""
        token = f"{self._name}.{len(self._strings)}"
        self._strings[token] = cuts
        return b'"%s"' % token.encode()

    def add_numbers(self, numbers: "array[float]") -> bytes:
        """Add a list of numbers; returns its token, in a list, as JSON."""
        token = f"{self._name}:{len(self._numbers)}"
        self._numbers[token] = numbers
        return b'["%s"]' % token.encode()

    def string(self, text: str) -> Iterator[str]:
        """The string that the token ``text`` replaces, in pieces; ``text`` if it is not a token."""
        cuts = self._strings.pop(text, None)
        if cuts is None:
            return iter((text,))
        return (_read_piece(self._text[a:b]) for a, b in pairwise(cuts))

    def numbers(self, values: list[Any]) -> "array[float] | None":
        """The numbers that a list with a token replaces; ``None`` for any other list."""
        token = values[0] if len(values) == 1 else None
        return self._numbers.pop(token, None) if isinstance(token, str) else None


def restore(value: Any, info: ValidationInfo) -> Any:
    """Replace the tokens in a value by their strings, which are cut after `MAX_TEXT` characters."""
    if info.context is None:
        return value
    if isinstance(value, dict):
        return {name: restore(member, info) for name, member in value.items()}
    return _begin(info.context.string(value)) if isinstance(value, str) else value


def _begin(pieces: Iterator[str]) -> str:
    """The text in pieces, joined until it exceeds `MAX_TEXT` characters."""
    text = ""
    while len(text) <= MAX_TEXT and (piece := next(pieces, "")):
        text += piece
    return text


Text = Annotated[str, Field(max_length=MAX_TEXT), BeforeValidator(restore)]


def parse_json(
    body: type[Body], text: bytes, otherwise: str, *, rows: int = 1
) -> Steps[tuple[Body, Lifted]]:
    """Parse UTF-8 text as ``body``; returns the body and what was lifted out of the text.

    Args:
        body: a model. Strings in it that are not images must be `Text`, and its lists must be
            `pydantic.FailFast`, because each error takes memory.
        otherwise: the beginning of error messages.
        rows: number of images that the text may contain.

    Raises:
        BadRequest: the text is not a valid body; the message says where and why.
    """
    if text.startswith(_UTF_16):
        raise BadRequest(f"{otherwise}: it is UTF-16; send UTF-8")
    text = text.removeprefix(BOM)
    if len(text) <= SMALL:
        yield 0
        return _validate(body, text, otherwise), Lifted()
    lifted = Lifted(text)
    rest = yield from _lift(text, lifted, MAX_REST + rows * MAX_REST_PER_ROW, otherwise)
    yield 0
    return _validate(body, rest, otherwise, lifted), lifted


def _read_piece(piece: bytes) -> str:
    """The text of a piece of a JSON string."""
    try:
        return str(from_json(b'"%b"' % piece))
    except ValueError as error:
        raise BadRequest(
            "the body is not valid JSON: a string contains an invalid character"
        ) from error


def _validate(body: type[Body], text: bytes, otherwise: str, lifted: Lifted | None = None) -> Body:
    try:
        return body.model_validate_json(text, context=lifted)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
        location = printable(".".join(map(str, detail["loc"]))) or "body"
        reason = detail["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
        if detail["type"] == "extra_forbidden":
            reason = f"unknown member{_hint(str(detail['loc'][-1]), body)}"
        if lifted:  # the position refers to the text with tokens
            reason = reason.partition(" at line ")[0]
        raise BadRequest(f"{otherwise}: {location}: {reason}") from error


def _hint(name: str, body: type[BaseModel]) -> str:
    """A suggestion for the unknown member ``name``, if a member of ``body`` is similar."""
    schema = body.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    members = [member for part in parts for member in part.get("properties", {})]
    close = difflib.get_close_matches(name[:80].lower().replace("-", "_"), members, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _lift(text: bytes, lifted: Lifted, most: int, otherwise: str) -> Steps[bytes]:
    """Lift strings and numbers; returns the rest of the text, at most ``most`` bytes."""
    parts: list[bytes] = []
    start = size = 0
    while start < len(text):
        quote = text.find(b'"', start)
        end = len(text) if quote < 0 else quote
        found = yield from _lift_numbers(text, start, end, lifted)
        if quote >= 0:
            cuts = yield from _cut_string(text, quote + 1, otherwise)
            end = cuts[-1] + 1
            if end - quote > LONG_STRING and not _COLON.match(text, end, end + LONG_STRING):
                found.append(lifted.add_string(cuts))
            else:
                found.append(memoryview(text)[quote:end])
        start = end
        size += sum(map(len, found))
        if size > most:
            raise BadRequest(
                f"{otherwise}: it has over {most:,} bytes apart from images and tensor data"
            )
        parts += map(bytes, found)
    return b"".join(parts)


def _cut_string(text: bytes, start: int, otherwise: str) -> Steps[list[int]]:
    """Positions that cut the string at ``start`` into valid JSON strings.

    The last position is the closing quote.
    """
    cuts = [start]
    while True:
        limit = cuts[-1] + PIECE
        quote = text.find(b'"', cuts[-1], limit)
        stop = min(limit, len(text)) if quote < 0 else quote
        if text.find(b"\\", cuts[-1], stop) >= 0:
            found = _STRING.match(text, cuts[-1], limit)
            assert found
            stop = found.end()
        if stop == cuts[-1] and text[stop : stop + 1] != b'"':
            raise BadRequest(
                f"{otherwise}: body: Invalid JSON: a string is malformed or not closed"
            )
        cuts.append(stop)
        yield 0
        if text[stop : stop + 1] == b'"':
            return cuts


def _lift_numbers(
    text: bytes, start: int, end: int, lifted: Lifted
) -> Steps[list[bytes | memoryview]]:
    """Lift a list of numbers between ``start`` and ``end``, without strings; returns the rest."""
    whole = memoryview(text)
    opening = text.find(b"[", start, end)
    brace = text.find(b"}", start, end)
    closing = text.rfind(b"]", start, end if brace < 0 else brace)
    if end - start < LONG_NUMBERS or not 0 <= opening < closing:
        return [whole[start:end]]
    numbers = yield from read_numbers(text, opening, closing + 1)
    return [whole[start:opening], lifted.add_numbers(numbers), whole[closing + 1 : end]]
