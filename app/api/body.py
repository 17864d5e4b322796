"""The image out of a request's body: raw, multipart or JSON. Its bytes are not looked at here."""

import base64
import binascii
from collections.abc import Callable

from fastapi import Request
from multipart import (
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from app.api.schemas import JsonImage
from app.errors import BadRequest, ClientDisconnected

PART_NAMES = ("file", "image")
HOW = (
    "send it as the raw body, as one multipart/form-data part named 'file', "
    'or as JSON {"image": "<base64>"}'
)


async def read_image(request: Request, hold: Callable[[int], None]) -> bytes:
    """The encoded image in the body.

    Args:
        hold: told the size of every piece that arrives; what it raises ends the reading.

    Raises:
        BadRequest: there is none, or more than one, or the form around it is broken.
        BodyTooLarge: as the body's bound says.
    """
    pieces = []
    try:
        async for piece in request.stream():
            hold(len(piece))
            pieces.append(piece)
    except ClientDisconnect as error:
        raise ClientDisconnected("the client left while it sent the body") from error
    body = b"".join(pieces)
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


def _image_of_multipart(body: bytes, boundary: str) -> bytes:
    if not boundary:
        raise BadRequest("multipart/form-data without a boundary in its Content-Type")
    try:
        parts = _parse_multipart(body, boundary)
    except (MultipartError, UnicodeError) as error:
        raise BadRequest(f"broken multipart body: {error}") from error
    for name, _ in parts:
        if name not in PART_NAMES:
            raise BadRequest(f"unknown part {name!r}; expected one part named 'file'")
    if len(parts) > 1:
        raise BadRequest(f"{len(parts)} images in one request; expected one")
    return parts[0][1] if parts else b""


def _parse_multipart(body: bytes, boundary: str) -> list[tuple[str, bytes]]:
    """Names and contents; `MultipartError` unless the form is whole and well-formed."""
    parts: list[tuple[str, list[bytes]]] = []
    with PushMultipartParser(boundary.encode("latin-1")) as parser:
        for event in parser.parse(body):
            if isinstance(event, MultipartSegment):
                parts.append((event.name, []))
            elif event:
                parts[-1][1].append(bytes(event))
    return [(name, b"".join(chunks)) for name, chunks in parts]
