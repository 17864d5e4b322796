"""JSON of clients, read in steps.

A large text is mostly images in base64 and numbers of tensors. These are lifted out of it, so that
what the parser takes in one step is small: kilobytes can stand for gigabytes of objects, and the
parser holds the interpreter lock from start to end.
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

SMALL = 16 * 2**10  # bytes of a text that is parsed as it is
LONG_STRING = 100  # bytes of a string that is lifted
LONG_NUMBERS = 2_048  # bytes between two strings that are lifted if they are numbers
MOST_REST = 16 * 2**10  # bytes that may be left of a text
MOST_REST_OF_ROW = 120  # and for each image that a request may hold
MOST_TEXT = 1_000  # characters of a name or an id

BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{")
_COLON = re.compile(rb"\s*:")
_STRING = re.compile(rb'(?:[^"\\]++|\\(?:u[0-9a-fA-F]{4}|[^u]))*+', re.DOTALL)

Body = TypeVar("Body", bound=BaseModel)


class Lifted:
    """Strings and numbers that were lifted out of a text, under the token in their place."""

    def __init__(self, text: bytes = b"") -> None:
        self._text = text
        self._name = secrets.token_hex(8) if text else ""  # no client can guess it
        self._strings: dict[str, list[int]] = {}
        self._numbers: dict[str, array[float]] = {}

    def add_string(self, cuts: list[int]) -> bytes:
        """The token, as JSON, for the string that is cut at ``cuts``."""
        token = f"{self._name}.{len(self._strings)}"
        self._strings[token] = cuts
        return b'"%s"' % token.encode()

    def add_numbers(self, numbers: "array[float]") -> bytes:
        """The token in a list, as JSON, for a list of numbers."""
        token = f"{self._name}:{len(self._numbers)}"
        self._numbers[token] = numbers
        return b'["%s"]' % token.encode()

    def string(self, text: str) -> Iterator[str]:
        """The pieces of the string that ``text`` stands for, which may be itself."""
        cuts = self._strings.pop(text, None)
        if cuts is None:
            return iter((text,))
        return (_read_piece(self._text[a:b]) for a, b in pairwise(cuts))

    def numbers(self, values: list[Any]) -> "array[float] | None":
        """The numbers that a list stands for; ``None`` where it stands for itself."""
        token = values[0] if len(values) == 1 else None
        return self._numbers.pop(token, None) if isinstance(token, str) else None


def restore(value: Any, info: ValidationInfo) -> Any:
    """A value of a body that is neither an image nor a tensor, as it is in the client's text.

    Of a string of over `MOST_TEXT` characters only the beginning.
    """
    if info.context is None:
        return value
    if isinstance(value, dict):
        return {name: restore(member, info) for name, member in value.items()}
    return _begin(info.context.string(value)) if isinstance(value, str) else value


def _begin(pieces: Iterator[str]) -> str:
    """The text in pieces, or over `MOST_TEXT` characters of it."""
    text = ""
    while len(text) <= MOST_TEXT and (piece := next(pieces, "")):
        text += piece
    return text


Text = Annotated[str, Field(max_length=MOST_TEXT), BeforeValidator(restore)]


def parse_json(
    body: type[Body], text: bytes, otherwise: str, *, rows: int = 1
) -> Steps[tuple[Body, Lifted]]:
    """The body that a UTF-8 text holds, and what was lifted out of it.

    Args:
        otherwise: how the error begins.
        rows: images that the text may hold.

    Lists in ``body`` end at their first mistake (`pydantic.FailFast`), since each takes memory, and
    strings in it that are not images are `Text`.

    Raises:
        BadRequest: it holds none; says where and why.
    """
    if text.startswith(_UTF_16):
        raise BadRequest(f"{otherwise}: it is UTF-16; send UTF-8")
    text = text.removeprefix(BOM)
    if len(text) <= SMALL:
        yield 0
        return _validate(body, text, otherwise), Lifted()
    lifted = Lifted(text)
    rest = yield from _lift(text, lifted, MOST_REST + rows * MOST_REST_OF_ROW, otherwise)
    yield 0
    return _validate(body, rest, otherwise, lifted), lifted


def _read_piece(piece: bytes) -> str:
    """The text of a piece of a JSON string."""
    try:
        return str(from_json(b'"%b"' % piece))
    except ValueError as error:
        raise BadRequest(
            "the body is not valid JSON: a string has a character that it may not have"
        ) from error


def _validate(body: type[Body], text: bytes, otherwise: str, lifted: Lifted | None = None) -> Body:
    try:
        return body.model_validate_json(text, context=lifted)
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = printable(".".join(map(str, mistake["loc"]))) or "body"
        why = mistake["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
        if mistake["type"] == "extra_forbidden":
            why = f"unknown member{_hint(str(mistake['loc'][-1]), body)}"
        if lifted:  # its line and column are of a text that the client does not have
            why = why.partition(" at line ")[0]
        raise BadRequest(f"{otherwise}: {where}: {why}") from error


def _hint(name: str, body: type[BaseModel]) -> str:
    """The member of a body that is nearest to an unknown one, if any is near."""
    schema = body.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    members = [member for part in parts for member in part.get("properties", {})]
    close = difflib.get_close_matches(name[:80].lower().replace("-", "_"), members, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _lift(text: bytes, lifted: Lifted, most: int, otherwise: str) -> Steps[bytes]:
    """What is left of a text, at most ``most`` bytes."""
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
                f"{otherwise}: it has over {most:,} bytes beside images and numbers of tensors"
            )
        parts += map(bytes, found)
    return b"".join(parts)


def _cut_string(text: bytes, start: int, otherwise: str) -> Steps[list[int]]:
    """Where to cut a string that begins at ``start`` so that each piece is one by itself.

    The last cut is at the quote that ends it.
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
            raise BadRequest(f"{otherwise}: body: Invalid JSON: a string is broken or has no end")
        cuts.append(stop)
        yield 0
        if text[stop : stop + 1] == b'"':
            return cuts


def _lift_numbers(
    text: bytes, start: int, end: int, lifted: Lifted
) -> Steps[list[bytes | memoryview]]:
    """What is left of the part from ``start`` to ``end``, which has no strings."""
    whole = memoryview(text)
    opening = text.find(b"[", start, end)
    brace = text.find(b"}", start, end)
    closing = text.rfind(b"]", start, end if brace < 0 else brace)
    if end - start < LONG_NUMBERS or not 0 <= opening < closing:
        return [whole[start:end]]
    numbers = yield from read_numbers(text, opening, closing + 1)
    return [whole[start:opening], lifted.add_numbers(numbers), whole[closing + 1 : end]]
