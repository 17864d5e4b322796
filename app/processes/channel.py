"""Connections between processes, which carry messages and notice the end of the other process."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

from app.processes.messages import Decoder, MalformedMessage, Message, encode

# A Unix socket counts each unread write as a few hundred bytes: with the default buffer a few
# hundred short messages fill it.
BUFFER_BYTES = 4 * 2**20

logger = logging.getLogger(__name__)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a channel, with room for many short messages."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in ends:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    return ends


class Channel(asyncio.Protocol):
    """One end of a channel, on the running event loop.

    Messages that are sent in the same turn of the loop leave in one write.

    Args:
        on_message: called with each message; raises if it makes no sense.
        on_end: called once, when the other process has died, closed its end or sent nonsense;
            with the reason.

    Attributes:
        malformed: whether the other process has sent nonsense.
    """

    def __init__(
        self, on_message: Callable[[Message], None], on_end: Callable[[str], None]
    ) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._decoder = Decoder()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._reason = "the process has ended"
        self.malformed = False

    @classmethod
    async def open(
        cls,
        end: socket.socket,
        on_message: Callable[[Message], None],
        on_end: Callable[[str], None],
    ) -> "Channel":
        """A channel over one end of a socket pair."""
        end.setblocking(False)  # noqa: FBT003
        loop = asyncio.get_running_loop()
        _, channel = await loop.create_unix_connection(lambda: cls(on_message, on_end), sock=end)
        return channel

    def send(self, message: Message) -> None:
        """Send a message; without effect once the other process has ended."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(encode(message))

    def close(self) -> None:
        """Send all queued messages, and close the connection."""
        self._flush()
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._on_message(message)
        except Exception as error:
            known = isinstance(error, MalformedMessage)
            self._reason = f"it sent {error}" if known else f"it sent nonsense: {error!r}"
            logger.error("a channel is closed: %s", self._reason, exc_info=not known)
            self.malformed = True
            if self._transport:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_end(self._reason)

    def _flush(self) -> None:
        pieces, self._outgoing = self._outgoing, []
        if pieces and self._transport and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
