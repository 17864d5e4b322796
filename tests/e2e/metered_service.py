"""The whole server as a process, which measures the turns of its event loop.

    python -m tests.e2e.metered_service FILE

Each line of the file is the CPU time of the event loop's thread from one tick to the next, in
seconds. Ticks are a millisecond apart while the loop is free.
"""

import asyncio
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

from app.cli.main import main
from app.server import server

TICK = 0.001  # seconds


class MeteredServer(server.Server):
    """Writes the duration of each turn, from startup on."""

    turns: TextIO

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tick(asyncio.get_running_loop(), time.thread_time())

    def _tick(self, loop: asyncio.AbstractEventLoop, last: float) -> None:
        now = time.thread_time()
        self.turns.write(f"{now - last:.6f}\n")
        loop.call_later(TICK, self._tick, loop, time.thread_time())


if __name__ == "__main__":
    server.Server = MeteredServer  # type: ignore[misc]
    with Path(sys.argv.pop()).open("w", buffering=1) as MeteredServer.turns:
        sys.exit(main(["serve"]))
