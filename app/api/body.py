"""Images out of a request's body: raw, multipart or JSON. Their bytes are not looked at here."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fastapi import Request
from multipart import (
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)
from starlette.requests import ClientDisconnect

from app.api.json_text import parse_json
from app.api.schemas import JsonImage
from app.errors import BadRequest, ClientDisconnected

PART_NAMES = ("file", "image")
PART_NAMES_OF_MANY = (*PART_NAMES, "files", "images")
HOW = (
    "send it as the raw body, as one multipart/form-data part named 'file', "
    'or as JSON {"image": "<base64>"}'
)


class Part(NamedTuple):
    """A part of a form; ``filename`` is what the client calls it."""

    name: str
    filename: str | None
    content: bytes


async def read_body(request: Request, hold: Callable[[int], None]) -> bytes:
    """The whole body.

    Args:
        hold: told the size of every piece that arrives; what it raises ends the reading.

    Raises:
        BodyTooLarge: as the body's bound says.
    """
    pieces = []
    try:
        async for piece in request.stream():
            hold(len(piece))
            pieces.append(piece)
    except ClientDisconnect as error:
        raise ClientDisconnected("the client left while it sent the body") from error
    return b"".join(pieces)


async def read_image(request: Request, hold: Callable[[int], None]) -> bytes:
    """The encoded image in the body; see `read_body`.

    Raises:
        BadRequest: there is none, or more than one, or the form around it is broken.
    """
    if encoding := request.headers.get("content-encoding"):
        raise BadRequest(f"Content-Encoding is {encoding[:20]!r}; an image is sent as it is")
    body = await read_body(request, hold)
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type == "multipart/form-data":
        image = _image_of_multipart(body, options.get("boundary", ""))
    elif media_type == "application/json":
        image = _image_of_json(body)
    else:
        image = body
    if not image:
        raise BadRequest(f"the request holds no image; {HOW}")
    return image


async def read_images(request: Request, hold: Callable[[int], None]) -> list[Part]:
    """The encoded images in a form, in order; see `read_body`.

    Raises:
        BadRequest: there is none, or the form is broken, or it is no form.
    """
    body = await read_body(request, hold)
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    if media_type != "multipart/form-data":
        raise BadRequest(
            f"the body is {media_type or 'of no type'}; send multipart/form-data with a part "
            "named 'file' for each image"
        )
    parts = _parse_multipart(body, options.get("boundary", ""), PART_NAMES_OF_MANY)
    if not parts:
        raise BadRequest("the form holds no image; expected a part named 'file' for each")
    return parts


def decode_base64(text: str) -> bytes:
    """An image in base64 or as a data: URI; raises `BadRequest` if it is neither."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"the image is no valid base64: {error}") from error


def decode_all(texts: Sequence[object]) -> list[bytes]:
    """Images in base64, as `decode_base64`; a `BadRequest` says which is none."""
    images = []
    for number, text in enumerate(texts):
        try:
            if not isinstance(text, str):
                raise BadRequest(f"it is a string of base64, and not {text!r:.40}")
            images.append(decode_base64(text))
        except BadRequest as error:
            error.name_image(number, len(texts))
            raise
    return images


def _image_of_json(body: bytes) -> bytes:
    asked = parse_json(JsonImage, body, 'the body is not {"image": "<base64>"}')
    return decode_base64(asked.image)


def _image_of_multipart(body: bytes, boundary: str) -> bytes:
    parts = _parse_multipart(body, boundary, PART_NAMES)
    if len(parts) > 1:
        raise BadRequest(f"{len(parts)} images in one request; expected one")
    return parts[0].content if parts else b""


def _parse_multipart(body: bytes, boundary: str, names: Sequence[str]) -> list[Part]:
    """The parts of a form; raises `BadRequest` unless it is whole and each is of ``names``."""
    if not boundary:
        raise BadRequest("multipart/form-data without a boundary in its Content-Type")
    parts: list[tuple[MultipartSegment, list[bytes]]] = []
    try:
        with PushMultipartParser(boundary.encode("latin-1")) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    parts.append((event, []))
                elif event:
                    parts[-1][1].append(bytes(event))
    except (MultipartError, UnicodeError) as error:
        raise BadRequest(f"broken multipart body: {error}") from error
    for segment, _ in parts:
        if segment.name not in names:
            raise BadRequest(f"unknown part {segment.name!r:.80}; an image is a part named 'file'")
    return [Part(segment.name, segment.filename, b"".join(chunks)) for segment, chunks in parts]
