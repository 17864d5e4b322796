"""A JSON list of numbers, nested or not, read in steps."""

from array import array

from pydantic_core import from_json

from app.http.quoting import quoted
from app.serving.errors import BadRequest
from app.serving.side_thread import PIECE, Steps

MOST_NUMBERS = 2_000_000  # thirteen tensors of 3 x 224 x 224
MOST_NESTING = 8
_OF_NUMBERS = b"0123456789+-.eE,[] \t\r\n"


def read_numbers(text: bytes, start: int, end: int) -> "Steps[array[float]]":
    """The numbers of the list from ``start`` to ``end``, row by row, in 32 bits.

    Raises:
        BadRequest: it is not a list of numbers, or there are over `MOST_NUMBERS`.
    """
    found = array("f")
    depth = 0
    while start < end:
        stop = _cut(text, start, end)
        numbers, depth = _read_piece(text[start:stop], depth, last=stop == end)
        found.extend(numbers)
        if len(found) > MOST_NUMBERS:
            raise BadRequest(
                f"the tensor has over {MOST_NUMBERS:,} numbers; send them as binary data"
            )
        start = stop + 1
        yield found.itemsize * len(numbers)
    return found


def _cut(text: bytes, start: int, end: int) -> int:
    """The comma before which the next piece ends, or the end of the list."""
    if end - start <= PIECE:
        return end
    comma = text.rfind(b",", start, start + PIECE)
    if comma < 0:
        raise BadRequest("the tensor's data is not a list of numbers")
    return comma


def _read_piece(piece: bytes, depth: int, *, last: bool) -> "tuple[array[float], int]":
    """The numbers of a piece that begins inside ``depth`` lists, and how many are open behind it.

    A list that is cut at one of its commas is a list if all of its pieces are, once the lists that
    are open around each are begun before it and ended behind it.
    """
    if strange := piece.translate(None, _OF_NUMBERS):
        raise BadRequest(f"the tensor's data has {quoted(strange[:1])}, which is not a number")
    after = depth + piece.count(b"[") - piece.count(b"]")
    if piece.lstrip()[:1] in (b"", b"]") or not (after == 0 if last else 0 < after <= MOST_NESTING):
        raise BadRequest("the tensor's data is not a list of numbers")
    try:
        if b"[" in piece or b"]" in piece:
            from_json(b"[" * depth + piece + b"]" * after)
        return array("f", from_json(b"[%b]" % piece.translate(None, b"[]"))), after
    except (ValueError, TypeError, OverflowError) as error:
        raise BadRequest("the tensor's data is not a list of numbers") from error
