"""Messages between workers, engines and the supervisor.

A message is a length, a kind and a body. The bodies of `Submit`, `Cancel` and `Done`, which are
sent for every image, have a fixed layout; the others are JSON. Nothing is pickled: a process that
sends nonsense cannot make another one run code.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from struct import error as StructError
from typing import Any, ClassVar

MAX_BODY = 64 * 2**20  # bytes; an image to be explained is the largest body
NO_SPAN = bytes(25)
_HEADER = Struct("<IB")  # bytes of the body, kind
_LENGTH = Struct("<I")


class MalformedMessage(Exception):
    """Bytes that are not a message; nothing after them can be read."""


class Kind(IntEnum):
    SUBMIT = 1
    CANCEL = 2
    DONE = 3
    JSON = 4


class Status(IntEnum):
    """The outcome of a submitted image."""

    OK = 0  # the answer is in the slot
    CANCELLED = 1
    EXPIRED = 2  # its deadline passed
    FULL = 3  # the batcher's queue was full
    OUT_OF_MEMORY = 4
    CLOSED = 5  # the engine stops
    DEVICE_FAILURE = 6
    FAILED = 7  # the model raised for this image alone


@dataclass(frozen=True, slots=True)
class Submit:
    """A prepared image in a slot, to be classified.

    Attributes:
        model: generation of the model that it was prepared for.
        floats: whether its pixels are 32-bit floats, and not bytes.
        deadline: on the monotonic clock, which all processes of a machine share.
        trace: trace id, span id and flags of the request, or `NO_SPAN`.
    """

    layout: ClassVar = Struct("<IQII?d25s")
    kind: ClassVar = Kind.SUBMIT

    slot: int
    generation: int
    model: int
    top_k: int
    floats: bool
    deadline: float
    trace: bytes = NO_SPAN


@dataclass(frozen=True, slots=True)
class Cancel:
    """The caller of a submitted image has left; it is answered with `Done` all the same."""

    layout: ClassVar = Struct("<IQ")
    kind: ClassVar = Kind.CANCEL

    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class Done:
    """The one answer to a `Submit`.

    Attributes:
        batch, thread, size, started, seconds: of the batch; see `app.serving.timings.Batch`.
        queue: seconds that the image waited.
        trace: trace id, span id and flags of the batch, or `NO_SPAN`.
    """

    layout: ClassVar = Struct("<IQBIHHddd25s")
    kind: ClassVar = Kind.DONE

    slot: int
    generation: int
    status: Status
    batch: int = 0
    thread: int = 0
    size: int = 0
    started: float = 0.0
    seconds: float = 0.0
    queue: float = 0.0
    trace: bytes = NO_SPAN


@dataclass(frozen=True, slots=True)
class Json:
    """A message that is sent rarely, as a JSON object with bytes behind it."""

    kind: ClassVar = Kind.JSON

    content: dict[str, Any]
    data: bytes = b""


Message = Submit | Cancel | Done | Json
_FIXED: dict[int, type[Submit | Cancel | Done]] = {
    kind.kind: kind for kind in (Submit, Cancel, Done)
}


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    if isinstance(message, Json):
        text = json.dumps(message.content).encode()
        body = b"".join((_LENGTH.pack(len(text)), text, message.data))
    else:
        body = message.layout.pack(*(getattr(message, name) for name in message.__slots__))
    return _HEADER.pack(len(body), message.kind) + body


class Decoder:
    """Messages out of the bytes that arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that ``data`` completes.

        Raises:
            MalformedMessage: the bytes are not messages.
        """
        self._buffer += data
        position = 0
        try:
            while len(self._buffer) - position >= _HEADER.size:
                length, kind = _HEADER.unpack_from(self._buffer, position)
                if length > MAX_BODY:
                    raise MalformedMessage(f"a message of {length:,} bytes")
                begin = position + _HEADER.size
                if len(self._buffer) < begin + length:
                    break
                position = begin + length
                yield _decode(kind, bytes(self._buffer[begin:position]))
        finally:
            del self._buffer[:position]


def _decode(kind: int, body: bytes) -> Message:
    if kind == Kind.JSON:
        return _decode_json(body)
    message = _FIXED.get(kind)
    if message is None:
        raise MalformedMessage(f"a message of kind {kind}")
    if len(body) != message.layout.size:
        raise MalformedMessage(f"a {message.__name__} of {len(body)} bytes")
    fields = message.layout.unpack(body)
    if message is Done:
        return Done(fields[0], fields[1], _status(fields[2]), *fields[3:])
    return message(*fields)


def _decode_json(body: bytes) -> Json:
    try:
        (length,) = _LENGTH.unpack_from(body)
        text, data = body[_LENGTH.size :][:length], body[_LENGTH.size + length :]
        content = json.loads(text)
    except (StructError, ValueError, RecursionError) as error:
        raise MalformedMessage("a message that is not JSON") from error
    if not isinstance(content, dict):
        raise MalformedMessage("a message that is not a JSON object")
    return Json(content, data)


def _status(number: int) -> Status:
    try:
        return Status(number)
    except ValueError as error:
        raise MalformedMessage(f"a Done of status {number}") from error
