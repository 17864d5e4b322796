"""A real HAProxy, as a process.

Needs Debian's package haproxy; where it is missing the tests are skipped, or fail if the variable
CI_REQUIRES_HAPROXY is set.
"""

import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.programs import find_program
from tests.server_process import PATIENCE


@contextmanager
def running_haproxy(
    configuration: str, ports: Collection[int], directory: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run HAProxy, and wait until it listens on ``ports``."""
    program = find_program("haproxy", "haproxy", "CI_REQUIRES_HAPROXY")
    file = directory / "haproxy.cfg"
    file.write_text(configuration)
    process = subprocess.Popen([program, "-db", "-f", str(file)], stderr=subprocess.DEVNULL)
    try:
        for port in ports:
            wait_for_listener(port)
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_for_listener(port: int) -> None:
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    pytest.fail(f"nothing listens on port {port}")
