"""Eight callers send the largest and worst bodies, and each probe is answered at once."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.bodies import DENSE, HOSTILE, INSTANCES, LARGEST, VERTEX, Body, filled

from .callers import write
from .conftest import ROOT, Server, StartServer, free_port

CALLERS = 8
REQUESTS = 2  # of each
MOST_HELD = 0.020  # seconds of CPU time in one turn of the event loop
MOST_WAITED = 0.100  # seconds until a probe is answered
ATTEMPTS = 4  # of which the best counts: the callers take most of a small machine themselves

KINDS: dict[str, Callable[[], Body]] = {
    **LARGEST,
    **HOSTILE,
    **INSTANCES,
    **{f"many {kind}": partial(filled, *given) for kind, given in DENSE.items()},
}
QUICK = ("JSON image", "OIP BYTES, gzip", "tiny parts", "many members")


class Metered(NamedTuple):
    """A server with what it writes down of its event loop."""

    server: Server
    turns: Path


class Seen(NamedTuple):
    """What a load did: statuses of its answers, and the worst turn and probe in seconds."""

    statuses: set[int]
    held: float
    waited: float


@pytest.fixture(scope="module")
def metered(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Metered:
    turns = tmp_path_factory.mktemp("turns") / "file"
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIP_HTTP_PORT", str(port))
        patch.setenv("AIP_PREDICT_ROUTE", VERTEX)
        command = ("-m", "tests.e2e.metered_service", str(turns))
        server = start_server(*command, port=port, cloud="vertex", log_level="warning")
    return Metered(server, turns)


def probe(port: int) -> float:
    """Seconds until a new connection is answered."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    return time.monotonic() - begun


def load(metered: Metered, request: Path) -> Seen:
    """Send a request from all callers at once, and probe on a new connection all the while."""
    port = metered.server.port
    turns_before = len(metered.turns.read_text().splitlines())
    command = [sys.executable, "-m", "tests.e2e.callers", port, request, CALLERS, REQUESTS]
    waited = []
    with subprocess.Popen(
        [*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as callers:
        while callers.poll() is None:
            waited.append(probe(port))
            time.sleep(0.01)
        assert callers.stdout
        statuses = {int(status) for status in callers.stdout.read().split()}
    turns = metered.turns.read_text().splitlines()[turns_before:]
    return Seen(statuses, max(map(float, turns)), max(waited))


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_nothing_that_eight_callers_send_holds_up_a_probe(
    metered: Metered, kind: str, tmp_path: Path
) -> None:
    request = tmp_path / "request"
    write(KINDS[kind](), request)
    seen = [load(metered, request)]
    while not answered_in_time(seen) and len(seen) < ATTEMPTS:
        seen.append(load(metered, request))
    assert answered_in_time(seen), seen
    assert not seen[-1].statuses & {0, 500}, seen


def answered_in_time(seen: Sequence[Seen]) -> bool:
    return (
        min(one.held for one in seen) < MOST_HELD and min(one.waited for one in seen) < MOST_WAITED
    )
