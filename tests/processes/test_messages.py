"""Messages between processes, and the channels that carry them."""

import asyncio
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.processes import messages
from app.processes.channel import Channel, socket_pair
from app.processes.messages import (
    NO_SPAN,
    Cancel,
    Decoder,
    Done,
    Json,
    MalformedMessage,
    Message,
    Status,
    Submit,
    encode,
)

pytestmark = pytest.mark.anyio

SLOTS, GENERATIONS = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
COUNTS, SECONDS = st.integers(0, 2**16 - 1), st.floats(allow_nan=False)
SPANS = st.just(NO_SPAN) | st.binary(min_size=25, max_size=25)
MESSAGES = (
    st.builds(Submit, SLOTS, GENERATIONS, SLOTS, SLOTS, st.booleans(), SECONDS, SPANS)
    | st.builds(Cancel, SLOTS, GENERATIONS)
    | st.builds(
        Done,
        *(SLOTS, GENERATIONS, st.sampled_from(Status), SLOTS, COUNTS, COUNTS),
        *(SECONDS, SECONDS, SECONDS, SPANS),
    )
    | st.builds(Json, st.dictionaries(st.text(), st.integers() | st.text()), st.binary())
)
SUBMIT = Submit(3, 7, 1, 5, floats=False, deadline=1.5)


@given(st.lists(MESSAGES, max_size=8), st.lists(st.integers(1, 200), max_size=20))
def test_messages_arrive_as_they_were_sent(sent: list[Message], sizes: list[int]) -> None:
    stream = b"".join(map(encode, sent))
    decoder = Decoder()
    found: list[Message] = []
    for size in sizes:
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert [*found, *decoder.feed(stream)] == sent


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_or_wait_for_more(data: bytes) -> None:
    try:
        found = [*Decoder().feed(data)]
    except MalformedMessage:
        return
    assert b"".join(map(encode, found)) == data[: sum(len(encode(each)) for each in found)] or any(
        isinstance(each, Json) for each in found
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xff\xff\xff\x01", "a message of 4,294,967,295 bytes"),
        (b"\0\0\0\0\x09", "a message of kind 9"),
        (b"\x01\0\0\0\x01x", "a Submit of 1 bytes"),
        (b"\x01\0\0\0\x04x", "a message that is not JSON"),
        (b"\x06\0\0\0\x04\x02\0\0\0[]", "a message that is not a JSON object"),
        (b'\x0f\0\0\0\x04\xff\xff\0\0{"a":NaN,,}', "a message that is not JSON"),
        (encode(Done(1, 1, Status.OK))[:17] + b"\x63", "a Done of status 99"),
    ],
)
def test_nonsense_is_named(data: bytes, reason: str) -> None:
    if data[4] == 3:
        data += encode(Done(1, 1, Status.OK))[len(data) :]
    with pytest.raises(MalformedMessage, match=reason):
        [*Decoder().feed(data)]


def test_a_deeply_nested_object_is_refused() -> None:
    text = b"[" * 200_000
    body = messages._LENGTH.pack(len(text)) + text
    with pytest.raises(MalformedMessage, match="not JSON"):
        [*Decoder().feed(messages._HEADER.pack(len(body), 4) + body)]


class End:
    """One end of a channel, and what has happened at it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.reasons: list[str] = []
        self.changed = asyncio.Event()

    async def open(self, end: socket.socket) -> Channel:
        return await Channel.open(end, self.on_message, self.on_end)

    def on_message(self, message: Message) -> None:
        self.messages.append(message)
        self.changed.set()

    def on_end(self, reason: str) -> None:
        self.reasons.append(reason)
        self.changed.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.messages) + len(self.reasons) < count:
                self.changed.clear()
                await self.changed.wait()


async def test_a_channel_carries_messages_both_ways() -> None:
    left, right = End(), End()
    ends = socket_pair()
    one, other = await left.open(ends[0]), await right.open(ends[1])
    for number in range(2000):
        one.send(Cancel(number, 0))
    other.send(Json({"answer": 42}, b"data"))
    await right.until(2000)
    await left.until(1)
    assert right.messages == [Cancel(number, 0) for number in range(2000)]
    assert left.messages == [Json({"answer": 42}, b"data")]
    other.send(SUBMIT)
    other.close()
    await left.until(3)
    assert (left.messages[1:], left.reasons) == ([SUBMIT], ["the process has ended"])
    one.send(SUBMIT)  # without effect
    await asyncio.sleep(0)
    await right.until(2001)
    assert right.reasons == ["the process has ended"]


async def test_messages_of_one_turn_leave_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket_pair()
    channel = await End().open(ours)
    for _ in range(5):
        channel.send(SUBMIT)
    await asyncio.sleep(0)
    theirs.settimeout(10)
    assert len(theirs.recv(2**16)) == 5 * len(encode(SUBMIT))
    theirs.close()
    channel.close()


async def test_nonsense_ends_the_channel() -> None:
    ours, theirs = socket_pair()
    end = End()
    await end.open(ours)
    theirs.sendall(encode(SUBMIT) + b"GET / HTTP/1.1\r\n\r\n")
    await end.until(2)
    assert end.messages == [SUBMIT]
    assert end.reasons[0].startswith("it sent a message of")
    theirs.close()


async def test_a_full_socket_loses_nothing() -> None:
    """The other process reads late: what does not fit into the socket waits in this process."""
    ours, theirs = socket_pair()
    channel = await End().open(ours)
    content = {"text": "x" * 100_000}
    for _ in range(200):
        channel.send(Json(content))
    await asyncio.sleep(0.01)
    late = End()
    other = await late.open(theirs)
    await late.until(200)
    assert late.messages == [Json(json.loads(json.dumps(content)))] * 200
    other.close()
    channel.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
