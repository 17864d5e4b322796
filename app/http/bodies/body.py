"""Reading images from request bodies: raw, multipart or JSON. Images are not decoded here."""

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from fastapi import Request

from app.http.bodies.base64_text import begins_as_base64, decode_base64, pieces_of
from app.http.bodies.forms import NAMES, NAMES_OF_MANY, Form, FormReader, Part
from app.http.bodies.json_text import BOM, parse_json
from app.http.quoting import quoted
from app.http.schemas import JsonImage
from app.http.timeouts import in_time, receive
from app.observability.record import RequestRecord
from app.serving.errors import BadRequest, ClientDisconnected, InvalidParameter
from app.serving.held_bytes import Hold
from app.serving.side_thread import LARGE, SideThread, Steps, T, join

EXPECTED = (
    "send it as the raw body, as one multipart/form-data part named 'file', "
    'or as JSON {"image": "<base64>"}'
)
FORM = "multipart/form-data"
_FIELDS = (b"image=", b"file=", b"top_k=")  # as application/x-www-form-urlencoded begins
_START = 64  # bytes that may precede the brace of a JSON body


class Images(NamedTuple):
    """The images of a body, and the parameters as text."""

    parts: list[Part]
    parameters: Mapping[str, str]


class ImageReader:
    """Reads the images of a request.

    Args:
        request: the request; its record has the deadline.
        hold: counts the bytes of the request; an exception from it ends the reading.
        side: decodes large bodies.
    """

    def __init__(self, request: Request, hold: Hold, side: SideThread) -> None:
        self._request = request
        self._record: RequestRecord = request.state.record
        self._hold = hold
        self._side = side
        self._content_type = request.headers.get("content-type", "")
        self._media_type = self._content_type.partition(";")[0].strip().lower()

    async def one(self, form: type[JsonImage]) -> tuple[bytes, Mapping[str, str]]:
        """The encoded image in the body, and the parameters.

        Args:
            form: the allowed members of JSON and parameters of a form.

        Raises:
            BadRequest: there is no image, more than one, or the body is malformed.
            ServiceError: see `read_body` and `in_time`.
        """
        self._check_encoding()
        if self._media_type == FORM:
            parts, parameters = await self._read_form(NAMES, form.parameters(), 1)
            image = parts[0].content if parts else b""
        else:
            body = await read_body(self._request, self._hold, self._side)
            image, parameters = await self._unpack(body, form)
            del body
        if not image:
            raise BadRequest(f"the request contains no image; {EXPECTED}")
        self._hold.set_size(len(image))
        return image, parameters

    async def many(self, parameters: tuple[str, ...], most: int) -> Images:
        """The encoded images in a form, in order, and its parameters.

        Raises:
            BadRequest: there is no image, or the body is not a valid form.
            TooManyImages: there are more than ``most``.
            ServiceError: see `read_body` and `in_time`.
        """
        self._check_encoding()
        if self._media_type != FORM:
            raise BadRequest(
                f"the Content-Type is {quoted(self._media_type) if self._media_type else 'missing'}"
                f"; send {FORM} with a part named 'file' for each image"
            )
        images = await self._read_form(NAMES_OF_MANY, parameters, most)
        if not images.parts:
            raise BadRequest("the form contains no image; send a part named 'file' for each image")
        return images

    async def _read_form(
        self, names: tuple[str, ...], parameters: tuple[str, ...], most: int
    ) -> Images:
        reader = FormReader(self._content_type, names, parameters, most)
        form = await receive(self._record, self._feed(reader))
        self._hold.set_size(sum(len(part.content) for part in form.images))
        return Images(form.images, form.fields)

    async def _feed(self, reader: FormReader) -> Form:
        async for piece in stream_body(self._request, self._hold):
            reader.feed(piece)
        form = reader.end()
        await self._side.run(_join_parts(form.images), self._hold, size=form.size)
        return form

    async def _unpack(self, body: bytes, form: type[JsonImage]) -> tuple[bytes, Mapping[str, str]]:
        """The image in a body that is not a form, and the parameters."""
        if self._media_type.startswith("multipart/"):
            raise BadRequest(f"the Content-Type is {quoted(self._media_type)}; send {FORM}")
        if body.startswith(_FIELDS):
            raise BadRequest(f"the body is a form of text fields; {EXPECTED}")
        if begins_as_base64(body):
            steps = decode_base64(pieces_of(body))
            return await self._work(steps, len(body)), {}
        if not (self._media_type.endswith("json") or _begins_as_json(body)):
            return body, {}
        return await self._work(read_image_of_json(body, form), len(body))

    async def _work(self, steps: Steps[T], size: int) -> T:
        return await in_time(self._record, self._side.run(steps, self._hold, size=size))

    def _check_encoding(self) -> None:
        encoding = self._request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise BadRequest(f"Content-Encoding is {quoted(encoding)}; send images without one")


async def stream_body(request: Request, hold: Hold) -> AsyncIterator[bytes]:
    """The body as it arrives; see `read_body`."""
    more = True
    while more:
        piece, more = await _next_piece(request, hold)
        yield piece


async def _next_piece(request: Request, hold: Hold) -> tuple[bytes, bool]:
    """A piece of the body, and whether more follow."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnected("the client disconnected before the body was complete")
    piece: bytes = message.get("body", b"")
    hold(len(piece))
    return piece, message.get("more_body", False)


async def read_body(request: Request, hold: Hold, side: SideThread) -> bytes:
    """The whole body.

    Args:
        request: the request; its record has the deadline.
        hold: called with the size of every piece; an exception from it ends the reading.
        side: joins the pieces of a large body.

    Raises:
        BodyTooLarge: the body is larger than the service accepts.
        ClientDisconnected: the client disconnected before the end of the body.
        ServiceError: see `receive` and `in_time`.
    """

    async def collect() -> list[bytes]:
        pieces, more = list[bytes](), True
        while more:
            piece, more = await _next_piece(request, hold)
            pieces.append(piece)
        return pieces

    record: RequestRecord = request.state.record
    pieces = await receive(record, collect())
    size = sum(map(len, pieces))
    if size <= LARGE:
        return b"".join(pieces)
    return await in_time(record, side.run(join(pieces), size=size))


def merge(query: Mapping[str, str], body: Mapping[str, str]) -> dict[str, str]:
    """All parameters; raises `InvalidParameter` if one is in the query and in the body."""
    for name in query.keys() & body.keys():
        raise InvalidParameter(f"{name} is in the query and in the body; send it once")
    return {**query, **body}


def _begins_as_json(body: bytes) -> bool:
    """Whether ``body`` begins like a JSON object; no image file does."""
    return body[:_START].removeprefix(BOM).lstrip()[:1] == b"{"


def read_image_of_json(body: bytes, form: type[JsonImage]) -> Steps[tuple[bytes, dict[str, str]]]:
    otherwise = 'the body is not {"image": "<base64>"}'
    parsed, lifted = yield from parse_json(form, body, otherwise)
    image = yield from decode_base64(lifted.string(parsed.image))
    return image, parsed.values()


def _join_parts(parts: list[Part]) -> Steps[None]:
    for number, part in enumerate(parts):
        try:
            yield from part.join()
        except BadRequest as error:
            error.name_image(number, len(parts))
            raise
