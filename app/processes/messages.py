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
from typing import Any, NamedTuple

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


class Submit(NamedTuple):
    """A prepared image in a slot, to be classified.

    Attributes:
        model: generation of the model that it was prepared for.
        floats: whether its pixels are 32-bit floats, and not bytes.
        deadline: on the monotonic clock, which all processes of a machine share.
        trace: trace id, span id and flags of the request, or `NO_SPAN`.
    """

    slot: int
    generation: int
    model: int
    top_k: int
    floats: bool
    deadline: float
    trace: bytes = NO_SPAN


class Cancel(NamedTuple):
    """The caller of a submitted image has left; it is answered with `Done` all the same."""

    slot: int
    generation: int


class Done(NamedTuple):
    """The one answer to a `Submit`.

    Attributes:
        batch, thread, size, started, seconds: of the batch; see `app.serving.timings.Batch`.
        queue: seconds that the image waited.
        trace: trace id, span id and flags of the batch, or `NO_SPAN`.
    """

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

    content: dict[str, Any]
    data: bytes = b""


Fixed = Submit | Cancel | Done
Message = Fixed | Json
LAYOUTS: dict[type[Fixed], tuple[Kind, Struct]] = {
    Submit: (Kind.SUBMIT, Struct("<IQII?d25s")),
    Cancel: (Kind.CANCEL, Struct("<IQ")),
    Done: (Kind.DONE, Struct("<IQBIHHddd25s")),
}
FIXED: dict[int, tuple[type[Fixed], Struct]] = {
    kind: (message, layout) for message, (kind, layout) in LAYOUTS.items()
}
STATUSES = {int(status): status for status in Status}


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    if isinstance(message, Json):
        text = json.dumps(message.content).encode()
        body = b"".join((_LENGTH.pack(len(text)), text, message.data))
        return _HEADER.pack(len(body), Kind.JSON) + body
    kind, layout = LAYOUTS[type(message)]
    return _HEADER.pack(layout.size, kind) + layout.pack(*message)


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
                yield _decode(kind, self._buffer, begin, length)
        finally:
            del self._buffer[:position]


def _decode(kind: int, buffer: bytearray, begin: int, length: int) -> Message:
    if kind == Kind.JSON:
        return _decode_json(bytes(buffer[begin : begin + length]))
    if kind not in FIXED:
        raise MalformedMessage(f"a message of kind {kind}")
    message, layout = FIXED[kind]
    if length != layout.size:
        raise MalformedMessage(f"a {message.__name__} of {length} bytes")
    fields = layout.unpack_from(buffer, begin)
    if message is Done:
        fields = (*fields[:2], _status(fields[2]), *fields[3:])
    return message._make(fields)


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
    if number not in STATUSES:
        raise MalformedMessage(f"a Done of status {number}")
    return STATUSES[number]
