"""Parsing of a JSON list of numbers, which may be nested, in steps."""

from array import array

from pydantic_core import from_json

from app.http.quoting import quoted
from app.serving.errors import BadRequest
from app.serving.side_thread import PIECE, Steps

MAX_NUMBERS = 2_000_000  # thirteen tensors of 3 x 224 x 224
MAX_NESTING = 8
_ALLOWED = b"0123456789+-.eE,[] \t\r\n"


def read_numbers(text: bytes, start: int, end: int) -> "Steps[array[float]]":
    """The numbers of the list from ``start`` to ``end``, row by row, as 32-bit floats.

    Raises:
        BadRequest: it is not a list of numbers, or there are over `MAX_NUMBERS`.
    """
    found = array("f")
    depth = 0
    while start < end:
        stop = _cut(text, start, end)
        numbers, depth = _read_piece(text[start:stop], depth, last=stop == end)
        found.extend(numbers)
        if len(found) > MAX_NUMBERS:
            raise BadRequest(
                f"the tensor has over {MAX_NUMBERS:,} numbers; send them as binary data"
            )
        start = stop + 1
        yield found.itemsize * len(numbers)
    return found


def _cut(text: bytes, start: int, end: int) -> int:
    """The position of the comma after the next piece, or the end of the list."""
    if end - start <= PIECE:
        return end
    comma = text.rfind(b",", start, start + PIECE)
    if comma < 0:
        raise BadRequest("the tensor's data is not a list of numbers")
    return comma


def _read_piece(piece: bytes, depth: int, *, last: bool) -> "tuple[array[float], int]":
    """The numbers of a piece that starts inside ``depth`` open lists, and the depth after it.

    To check a piece that was cut at commas, the open lists are opened before it and closed after
    it.
    """
    if invalid := piece.translate(None, _ALLOWED):
        raise BadRequest(f"the tensor's data has {quoted(invalid[:1])}, which is not a number")
    after = depth + piece.count(b"[") - piece.count(b"]")
    if piece.lstrip()[:1] in (b"", b"]") or not (after == 0 if last else 0 < after <= MAX_NESTING):
        raise BadRequest("the tensor's data is not a list of numbers")
    try:
        if b"[" in piece or b"]" in piece:
            from_json(b"[" * depth + piece + b"]" * after)
        return array("f", from_json(b"[%b]" % piece.translate(None, b"[]"))), after
    except (ValueError, TypeError, OverflowError) as error:
        raise BadRequest("the tensor's data is not a list of numbers") from error
