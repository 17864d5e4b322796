"""Images as base64 text, decoded in steps."""

import binascii
import string
from collections.abc import Iterable, Sequence

from app.errors import BadRequest
from app.quoting import quoted
from app.side_thread import PIECE, Steps

DATA_HEAD = 200  # characters of a data: URI before its comma, at most
_STANDARD = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n"
_CUT = "the image is not valid base64: its length is wrong, as if it were cut"
_SYMBOLS = (string.ascii_letters + string.digits + "+/").encode()


def pieces_of(text: str) -> Iterable[str]:
    """A text in pieces that one step can take."""
    return (text[start : start + PIECE] for start in range(0, len(text), PIECE))


def decode_base64(pieces: Iterable[str]) -> Steps[bytes]:
    """The bytes of base64 text that comes in pieces.

    The text may be base64url (RFC 4648 section 5), have line breaks, lack its padding or be a
    ``data:`` URI.

    Raises:
        BadRequest: it is none of these.
    """
    symbols = yield from _collect(pieces)
    content = symbols.rstrip(b"=")
    padding = len(symbols) - len(content)
    decoded = []
    for start in range(0, len(content), PIECE):
        decoded.append(_decode(content[start : start + PIECE]))
        yield len(decoded[-1])
    if padding not in (0, -len(content) % 4):
        raise BadRequest(_CUT)
    yield -len(symbols)
    del symbols, content
    return b"".join(decoded)


def decode_images(texts: Sequence[Iterable[str]]) -> Steps[list[bytes]]:
    """As `decode_base64`, of each text; a `BadRequest` says which of them is not an image."""
    images = []
    for number, pieces in enumerate(texts):
        try:
            images.append((yield from decode_base64(pieces)))
        except BadRequest as error:
            error.name_image(number, len(texts))
            raise
    return images


def _collect(pieces: Iterable[str]) -> Steps[bytes]:
    """The symbols of the text in the standard alphabet: no blanks, no head of a data: URI."""
    found = []
    for number, piece in enumerate(pieces):
        if number == 0:
            piece = _without_data_head(piece)
        try:
            found.append(piece.encode("ascii").translate(_STANDARD, _BLANKS))
        except UnicodeEncodeError as error:
            raise BadRequest(_bad_symbol(piece[error.start])) from error
        yield len(found[-1])
    return b"".join(found)


def _without_data_head(text: str) -> str:
    if text[:5].lower() != "data:":
        return text
    head, comma, rest = text.partition(",")
    if not comma or len(head) > DATA_HEAD or not head.lower().endswith(";base64"):
        raise BadRequest("the data: URI of the image must begin like data:image/jpeg;base64,")
    return rest


def _decode(symbols: bytes) -> bytes:
    """The bytes of symbols without padding."""
    if len(symbols) % 4 == 1 and not symbols.translate(None, _SYMBOLS):
        raise BadRequest(_CUT)
    try:
        return binascii.a2b_base64(symbols + b"=" * (-len(symbols) % 4), strict_mode=True)
    except binascii.Error as error:
        raise BadRequest(_bad_symbol(_first_bad(symbols))) from error


def _first_bad(symbols: bytes) -> str:
    return chr(symbols.translate(None, _SYMBOLS)[0])


def _bad_symbol(symbol: str) -> str:
    return f"the image is not valid base64: it has the character {quoted(symbol)}"
