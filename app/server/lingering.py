"""Closing a TCP connection so that the client can still read the last answer.

TCP resets a connection that is closed while received bytes are unread, and the client may then lose
the answer. So only our side is shut down, further bytes are discarded, and the connection ends when
the client closes its side, or after a timeout.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

FLUSH = 5.0  # seconds for a client to read the end of an answer before its connection is closed


class LingeringTransport(asyncio.Transport):
    """A transport whose `close` lingers.

    The protocol must discard what it receives once the transport is closing, and call `lost` when
    the connection is lost.

    Args:
        transport: the transport of the connection.
        linger: called at `close`; returns the seconds to wait for the client to close its side, or
            0 if the client cannot be sending.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        linger: Callable[[], float],
    ) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._linger = linger
        self._closing = False
        self._outgoing: list[bytes | bytearray | memoryview] = []
        self._deadline: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.is_closing():
            return
        self._flush()
        self._closing = True
        if seconds := self._linger():
            self._transport.resume_reading()
            self._transport.write_eof()
            self.close_within(seconds)
            return
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self.close_within(FLUSH)

    def close_within(self, seconds: float) -> None:
        """Abort the connection, which is being closed, after ``seconds``."""
        self._cancel_deadline()
        self._deadline = self._loop.call_later(seconds, self.abort)

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._cancel_deadline()
        self._transport.abort()

    def reset(self) -> None:
        """Close at once, and drop what the client has not read."""
        connection = self.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def lost(self) -> None:
        """Record that the connection is lost."""
        self._closing = True
        self._cancel_deadline()

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write once per turn of the loop: a head together with its body."""
        if self._closing:
            return
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)

    def _flush(self) -> None:
        pieces, self._outgoing = self._outgoing, []
        if pieces and not self._closing:
            self._transport.write(b"".join(pieces))

    def pause_reading(self) -> None:
        if not self._closing:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._closing:
            self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def _cancel_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None
