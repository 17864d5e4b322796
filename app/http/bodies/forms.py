"""Forms (multipart/form-data) with images and parameters, parsed while they arrive."""

import binascii
import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from app.http.bodies.base64_text import begins_as_base64, decode_base64, pieces_of
from app.http.quoting import quoted
from app.serving.errors import BadRequest, InvalidParameter, TooManyImages
from app.serving.side_thread import Steps, join

NAMES = ("file", "image")
NAMES_OF_MANY = (*NAMES, "files", "images")
MAX_OTHER_PARTS = 16  # parameters, and file inputs that were left empty
MAX_FIELD = 64  # bytes of a parameter
MAX_BOUNDARY = 250  # bytes
_BOUNDARY = re.compile(r';\s*boundary\s*=\s*(?:"([^"]*)"|([^;]*))', re.IGNORECASE)
_FILENAME = re.compile(r";\s*filename\*\s*=\s*([\w-]*)'[^']*'([^;\s]+)", re.IGNORECASE)
BASE64 = "base64"
_AS_IT_IS = ("", "7bit", "8bit", "binary")


@dataclass(slots=True)
class Part:
    """An image in a form, with the file name that the client sent."""

    filename: str | None
    encoding: str = ""
    pieces: list[bytes] = field(default_factory=list)
    content: bytes = b""

    def join(self) -> Steps[None]:
        """Set ``content`` from the pieces; base64 is decoded."""
        self.content = yield from join(self.pieces)
        if self.encoding == BASE64 or begins_as_base64(self.content):
            self.content = yield from decode_base64(pieces_of(self.content))


@dataclass(slots=True)
class Form:
    """The parts of a form that have been read, and their total size in bytes."""

    size: int = 0
    images: list[Part] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


class FormReader:
    """Reads a form piece by piece, and refuses invalid parts as soon as they arrive.

    Args:
        content_type: the Content-Type of the request, with the boundary.
        names: names of parts that are images.
        parameters: names of parts that are parameters.
        most: maximum number of images.

    Raises:
        BadRequest: the form is malformed, or it has a part of another name.
        InvalidParameter: a parameter is repeated or too long.
        TooManyImages: there are more than ``most`` images, and ``most`` is not one.
    """

    def __init__(
        self, content_type: str, names: Collection[str], parameters: Collection[str], most: int
    ) -> None:
        self.form = Form()
        self._names = names
        self._parameters = parameters
        self._most = most
        boundary = read_boundary(content_type)
        self._boundary = boundary.decode("latin-1")
        self._parser = PushMultipartParser(
            boundary,
            header_charset="latin-1",  # accepts all bytes; `_text` decodes UTF-8
        )
        self._parts = 0
        self._field = ""  # the name of the parameter that is being read
        self._field_encoding = ""
        self._pieces: list[bytes] = []  # the content of the part that is being read

    def feed(self, piece: bytes) -> None:
        """Parse the next piece of the body."""
        if not piece:  # the parser would take it for the end
            return
        try:
            for event in self._parser.parse(piece):
                if isinstance(event, MultipartSegment):
                    self._begin(event)
                elif event:
                    self._take(bytes(event))
                else:
                    self._end()
        except MultipartError as error:
            raise BadRequest(f"malformed multipart body: {error.args[0]}") from error

    def end(self) -> Form:
        """The form, after the end of the body."""
        try:
            self._parser.close()
        except MultipartError as error:
            raise BadRequest(
                "malformed multipart body: it ends without the final boundary "
                f"{quoted(f'--{self._boundary}--')} of its Content-Type"
            ) from error
        return self.form

    def _begin(self, segment: MultipartSegment) -> None:
        self._parts += 1
        if self._parts > self._most + MAX_OTHER_PARTS:
            raise BadRequest(f"the form has over {self._most + MAX_OTHER_PARTS} parts")
        name = _text(segment.name)
        self._field = ""
        self._pieces = []
        if name in self._parameters:
            if name in self.form.fields:
                raise InvalidParameter(f"duplicate parameter {name}; send it once")
            self._field = name
            self._field_encoding = _encoding(segment)
        elif name in self._names:
            self.form.images.append(Part(_filename(segment), _encoding(segment)))
            if self.form.images[-1].filename:
                self._count()
        else:
            raise BadRequest(self._unknown(name))

    def _take(self, content: bytes) -> None:
        self._pieces.append(content)
        self.form.size += len(content)
        if not self._field:
            self._count()
        elif sum(map(len, self._pieces)) > MAX_FIELD:
            raise InvalidParameter(f"{self._field} has over {MAX_FIELD} bytes")

    def _end(self) -> None:
        if self._field:
            self.form.fields[self._field] = self._parameter(b"".join(self._pieces))
        elif self._pieces or self.form.images[-1].filename:
            self.form.images[-1].pieces = self._pieces
        else:
            self.form.images.pop()  # a file input that was left empty

    def _parameter(self, content: bytes) -> str:
        if self._field_encoding == BASE64:
            try:
                content = binascii.a2b_base64(content)
            except binascii.Error as error:
                raise InvalidParameter(f"{self._field} is not valid base64") from error
        return content.decode(errors="replace").strip()

    def _count(self) -> None:
        if len(self.form.images) <= self._most:
            return
        if self._most == 1:
            raise BadRequest(
                "more than one image in one request; send one, or send all to /predict/batch"
            )
        raise TooManyImages(f"more than {self._most} images in one request")

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name[:80], (*self._names, *self._parameters), n=1)
        hint = f"; did you mean {quoted(close[0])}?" if close else ""
        return f"unknown part {quoted(name)}; an image is a part named 'file'{hint}"


def read_boundary(content_type: str) -> bytes:
    """The boundary in a Content-Type, quoted or not."""
    found = _BOUNDARY.search(content_type)
    boundary = (found[1] or found[2] or "").strip() if found else ""
    if not boundary:
        raise BadRequest("the Content-Type multipart/form-data has no boundary")
    if len(boundary) > MAX_BOUNDARY:
        raise BadRequest(f"the boundary of the form is over {MAX_BOUNDARY} bytes long")
    return boundary.encode("latin-1")


def _text(text: str) -> str:
    """Text of a part's head, which was decoded as Latin-1, as UTF-8 if it is valid UTF-8."""
    content = text.encode("latin-1", errors="replace")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return text


def _filename(segment: MultipartSegment) -> str | None:
    extended = _FILENAME.search(segment.header("Content-Disposition", ""))
    if extended and extended[1].lower() in ("utf-8", "iso-8859-1"):
        return unquote_to_bytes(extended[2]).decode(extended[1], errors="replace")
    return None if segment.filename is None else _text(segment.filename)


def _encoding(segment: MultipartSegment) -> str:
    encoding = str(segment.header("Content-Transfer-Encoding", "")).strip().lower()
    if encoding not in (*_AS_IT_IS, BASE64):
        raise BadRequest(
            f"Content-Transfer-Encoding is {quoted(encoding)}; it must be binary or base64"
        )
    return encoding
