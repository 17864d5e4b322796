"""Clients that call a service all the time, each on one connection, and record every outcome."""

import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from tests.server_process import PATIENCE, PHOTO, Server


@dataclass(frozen=True)
class Failure:
    """A request without an answer: the local port of its connection, and when that was opened."""

    port: int
    opened: float
    reason: str


class Callers:
    """Threads that send photos until the end of the block.

    Attributes:
        statuses: of all answers.
        failures: requests without an answer.
    """

    def __init__(self, service: Server, count: int) -> None:
        self._service = service
        self._ending = False
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]
        self.statuses: list[int] = []
        self.failures: list[Failure] = []

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._ending:
            connection = HTTPConnection("127.0.0.1", self._service.port, timeout=PATIENCE)
            port, opened = 0, 0.0
            try:
                connection.connect()
                port, opened = connection.sock.getsockname()[1], time.monotonic()
                while not self._ending:
                    connection.request("POST", "/predict", PHOTO)
                    answer = connection.getresponse()
                    answer.read()
                    self.statuses.append(answer.status)
                    if answer.getheader("Connection") == "close":
                        break
            except (OSError, HTTPException) as error:
                self.failures.append(Failure(port, opened, repr(error)))
            finally:
                connection.close()


def ports_of_clients(process: int) -> set[int]:
    """The ports of the clients whose connections a process has open."""
    inodes = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()))
        except OSError:
            continue  # closed meanwhile
    ports = set()
    for line in Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in inodes:
            ports.add(int(fields[2].rpartition(":")[2], 16))
    return ports
