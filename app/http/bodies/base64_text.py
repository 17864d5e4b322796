"""Images as base64 text, decoded in steps."""

import binascii
import re
import string
import struct
from collections.abc import Iterable, Sequence

from app.http.quoting import quoted
from app.serving.errors import BadRequest
from app.serving.side_thread import PIECE, Steps

MAX_DATA_HEAD = 200  # characters of a data: URI before its comma
_STANDARD = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n"
_TRUNCATED = "the image is not valid base64: its length is wrong; it may be truncated"
_SPACED = re.compile(r"\S +\S")  # does not match the indentation of a line
_SYMBOLS = (string.ascii_letters + string.digits + "+/").encode()
_BEGINNINGS = tuple(  # of base64 text with an image
    binascii.b2a_base64(magic, newline=False)[: len(magic) * 4 // 3]
    for magic in (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF",
        b"GIF8",
        b"BM",
        b"II*\0",
        b"II+\0",
        b"MM\0*",
        b"MM\0+",
        *(struct.pack(">I4s", length, b"ftyp") for length in range(16, 256, 4)),  # AVIF and HEIC
    )
)
_GROUP = 4  # symbols for three bytes


def pieces_of(content: bytes) -> Iterable[str]:
    """Bytes as Latin-1 text, in pieces of one step each."""
    starts = range(0, len(content), PIECE)
    return (content[start : start + PIECE].decode("latin-1") for start in starts)


def begins_as_base64(content: bytes) -> bool:
    """Whether ``content`` begins like base64 text with an image; no image file does."""
    start = content[:16].translate(_STANDARD)
    return start[:5].lower() == b"data:" or start.startswith(_BEGINNINGS)


def decode_base64(pieces: Iterable[str]) -> Steps[bytes]:
    """Decode base64 text that comes in pieces.

    The text may be base64url (RFC 4648 section 5), have line breaks, lack its padding or be a
    ``data:`` URI.

    Raises:
        BadRequest: the text is invalid.
    """
    decoded = []
    rest = b""
    for number, piece in enumerate(pieces):
        symbols = rest + _symbols(piece if number else _without_data_head(piece))
        whole = max(0, len(symbols) - 1) // _GROUP * _GROUP  # without the last group
        decoded.append(_decode(symbols[:whole]))
        rest = symbols[whole:]
        yield len(decoded[-1])
    decoded.append(_decode_last(rest))
    return b"".join(decoded)


def decode_images(texts: Sequence[Iterable[str]]) -> Steps[list[bytes]]:
    """Decode each text as `decode_base64` does; a `BadRequest` names the image."""
    images = []
    for number, pieces in enumerate(texts):
        try:
            images.append((yield from decode_base64(pieces)))
        except BadRequest as error:
            error.name_image(number, len(texts))
            raise
    return images


def _symbols(text: str) -> bytes:
    """The symbols of a text, in the standard alphabet and without white space."""
    if " " in text and _SPACED.search(text):
        raise BadRequest(
            "the image is not valid base64: it contains spaces, probably from unescaped +; "
            "send + as %2B in a form or query, or send base64url"
        )
    try:
        return text.encode("ascii").translate(_STANDARD, _BLANKS)
    except UnicodeEncodeError as error:
        raise BadRequest(_bad_symbol(text[error.start])) from error


def _without_data_head(text: str) -> str:
    if text[:5].lower() != "data:":
        return text
    head, comma, rest = text.partition(",")
    if not comma or len(head) > MAX_DATA_HEAD or not head.lower().endswith(";base64"):
        raise BadRequest("the data: URI of the image must begin like data:image/jpeg;base64,")
    return rest


def _decode(symbols: bytes) -> bytes:
    """The bytes of whole groups of symbols, without padding."""
    if invalid := symbols.translate(None, _SYMBOLS):
        raise BadRequest(_bad_symbol(chr(invalid[0])))
    return binascii.a2b_base64(symbols)


def _decode_last(symbols: bytes) -> bytes:
    """The bytes of the last group, with or without padding."""
    content = symbols.rstrip(b"=")
    missing = -len(content) % _GROUP
    if invalid := content.translate(None, _SYMBOLS):
        raise BadRequest(_bad_symbol(chr(invalid[0])))
    if missing == _GROUP - 1 or len(symbols) - len(content) not in (0, missing):
        raise BadRequest(_TRUNCATED)
    return binascii.a2b_base64(content + b"=" * missing)


def _bad_symbol(symbol: str) -> str:
    return f"the image is not valid base64: it contains the character {quoted(symbol)}"
