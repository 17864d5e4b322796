"""Three servers behind a real load balancer, with the configuration of ``deploy/haproxy``."""

import http.client
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.config.settings import Settings
from tests.documents import ROOT, blocks
from tests.server_process import PATIENCE, Server, free_port, wait_for

from .conftest import SLOW_SERVICE, StartServer
from .haproxy import running_haproxy

pytestmark = pytest.mark.one_process("about the balancer")

CONFIGURATION = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
DRAIN_DELAY: float = Settings.model_fields["drain_delay_s"].default
CALLERS = 12
PREDICTIONS = 'xcit_requests_total{code="200",endpoint="/predict"}'


@dataclass(frozen=True)
class Call:
    """A request as its caller saw it; ``result`` is a status, or the error of the connection."""

    request_id: str
    begun: float
    ended: float
    result: int | str


@dataclass
class Calls:
    """The requests of all callers."""

    answers: list[Call] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def lost(self) -> list[Call]:
        return [answer for answer in self.answers if answer.result != 200]


def call(port: int, body: bytes, calls: Calls) -> None:
    """Send one request after the other on a connection that is kept."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    while not calls.done.is_set():
        begun, request_id = time.monotonic(), uuid.uuid4().hex
        try:
            connection.request("POST", "/predict", body, {"X-Request-ID": request_id})
            response = connection.getresponse()
            response.read()
            result: int | str = response.status
        except (OSError, http.client.HTTPException) as error:
            result = type(error).__name__
            connection.close()
        calls.answers.append(Call(request_id, begun, time.monotonic(), result))
    connection.close()


@contextmanager
def calling(port: int, body: bytes) -> Iterator[Calls]:
    """Send requests from several threads until the end of the block."""
    calls = Calls()
    threads = [threading.Thread(target=call, args=(port, body, calls)) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield calls
    finally:
        calls.done.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def servers(start_server: StartServer) -> list[Server]:
    started = [start_server(*SLOW_SERVICE, drain_delay_s=DRAIN_DELAY, wait=False) for _ in "123"]
    for server in started:
        server.wait_ready()
    return started


@pytest.fixture
def balancer(servers: list[Server], tmp_path: Path) -> Iterator[int]:
    """The port of the balancer; all servers get requests from it."""
    port, text = free_port(), CONFIGURATION.read_text()
    places = {"bind :80": f"bind 127.0.0.1:{port}"}
    for number, server in enumerate(servers, 1):
        places[f"xcit-{number}:8000"] = f"127.0.0.1:{server.port}"
    for old, new in places.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    with running_haproxy(text, [port], tmp_path):
        with calling(port, b"0.01"):
            for server in servers:
                wait_for(lambda: predictions(server) > 0, "it gets requests")  # noqa: B023
        yield port


def predictions(server: Server) -> float:
    return server.metrics().get(PREDICTIONS, 0.0)


def restart(server: Server, start_server: StartServer) -> Server:
    """Replace a server by another one on the same port, and wait until it gets requests."""
    assert server.stop() == 0
    again = start_server(*SLOW_SERVICE, drain_delay_s=DRAIN_DELAY, port=server.port)
    wait_for(lambda: predictions(again) > 0, "it gets requests")
    return again


def test_rolling_restart_of_all_servers_loses_no_request(
    servers: list[Server], balancer: int, start_server: StartServer
) -> None:
    with calling(balancer, b"0.02") as calls:
        for server in servers:
            restart(server, start_server)
    assert calls.lost() == []
    assert len(calls.answers) > 500


def test_killed_server_loses_only_its_open_requests(
    servers: list[Server], balancer: int, start_server: StartServer
) -> None:
    killed, *others = servers
    with calling(balancer, b"0.3") as calls:
        time.sleep(1)
        assert killed.inflight() > 0
        before = time.monotonic()
        killed.process.kill()
        killed.process.wait(PATIENCE)
        after = time.monotonic()
        time.sleep(2)
        again = start_server(*SLOW_SERVICE, port=killed.port)
        wait_for(lambda: predictions(again) > 0, "it gets requests")
    lost = calls.lost()
    assert 0 < len(lost) < CALLERS
    elsewhere = "".join(server.log.read_text() for server in (*others, again))
    for each in lost:
        assert each.begun < after
        assert each.ended > before
        assert each.result in {502, "RemoteDisconnected"}
        assert each.request_id not in elsewhere, "lost by a server that was not killed"
    answered = {each.request_id for each in calls.answers} - {each.request_id for each in lost}
    assert any(request_id in elsewhere for request_id in answered)


def test_the_documented_configuration_is_the_tested_one() -> None:
    documented = blocks("text", ROOT / "docs/how-to/scale.md")
    assert CONFIGURATION.read_text() in [block.text for block in documented]


def test_the_configuration_notices_a_drain_in_time_and_waits_longer_than_the_service() -> None:
    text = CONFIGURATION.read_text()
    found = re.search(r"inter (\d+)s fastinter (\d+)ms .*fall (\d+)", text)
    assert found
    inter, fastinter, fall = int(found[1]), int(found[2]) / 1000, int(found[3])
    assert inter + (fall - 1) * fastinter < DRAIN_DELAY
    assert re.findall(r"retry-on (.*)", text) == ["conn-failure"]
    timeout = re.search(r"timeout server (\d+)s", text)
    assert timeout
    assert int(timeout[1]) > Settings.model_fields["request_timeout_s"].default
