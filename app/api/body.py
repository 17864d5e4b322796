"""The image out of a request's body: raw, multipart or JSON. Its bytes are not looked at here."""

import base64
import binascii

from fastapi import Request
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from app.api.schemas import JsonImage
from app.errors import BadRequest, ClientDisconnected

PART_NAMES = ("file", "image")
HOW = (
    "send it as the raw body, as one multipart/form-data part named 'file', "
    'or as JSON {"image": "<base64>"}'
)


async def read_image(request: Request) -> bytes:
    """The encoded image in the body.

    Raises:
        BadRequest: there is none, or more than one, or the form around it is broken.
        BodyTooLarge: as the body's bound says.
    """
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise ClientDisconnected("the client left while it sent the body") from error
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type == b"multipart/form-data":
        image = _image_of_multipart(body, options.get(b"boundary"))
    elif media_type == b"application/json":
        image = _image_of_json(body)
    else:
        image = body
    if not image:
        raise BadRequest(f"the request holds no image; {HOW}")
    return image


def _image_of_json(body: bytes) -> bytes:
    try:
        text = JsonImage.model_validate_json(body).image
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise BadRequest(f'the body is not {{"image": "<base64>"}}: {reason}') from error
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"the image is no valid base64: {error}") from error


def _image_of_multipart(body: bytes, boundary: bytes | None) -> bytes:
    if not boundary:
        raise BadRequest("multipart/form-data without a boundary in its Content-Type")
    form = MultipartForm(boundary)
    form.parse(body)
    for name, _ in form.parts:
        if name not in PART_NAMES:
            raise BadRequest(f"unknown part {name!r}; expected one part named 'file'")
    if len(form.parts) > 1:
        raise BadRequest(f"{len(form.parts)} images in one request; expected one")
    return form.parts[0][1] if form.parts else b""


class MultipartForm:
    """The parts of a multipart body that is in memory: names and contents, nothing on disk."""

    def __init__(self, boundary: bytes) -> None:
        self.parts: list[tuple[str, bytes]] = []
        self._name = ""
        self._content = bytearray()
        self._header = bytearray()
        self._value = bytearray()
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_part_data": self._add_content,
                "on_part_end": self._end_part,
                "on_header_field": self._add_header,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_end": self._end,
            },
        )

    def parse(self, body: bytes) -> None:
        """Raises `BadRequest` unless ``body`` is a whole and well-formed form."""
        try:
            self._parser.write(body)
        except FormParserError as error:
            raise BadRequest(f"broken multipart body: {error}") from error
        if not self._ended:
            raise BadRequest("broken multipart body: it ends before its closing boundary")

    def _begin_part(self) -> None:
        self._name = ""
        self._content = bytearray()

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end_part(self) -> None:
        self.parts.append((self._name, bytes(self._content)))

    def _add_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._header.clear()
        self._value.clear()

    def _end(self) -> None:
        self._ended = True
