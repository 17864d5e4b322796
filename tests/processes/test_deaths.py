"""Processes that are killed again and again under load: nothing is lost, and nothing grows."""

import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import pytest

from app.observability.process_metrics import read_resources
from tests.server_process import PATIENCE, Server, wait_for

from .callers import Callers, ports_of_clients
from .service import start

pytestmark = [pytest.mark.thorough, pytest.mark.starts_first]

CALLERS = 8
MIB = 2**20
ANSWERED = 'xcit_requests_total{code="200",endpoint="/predict"}'


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[Server]:
    """A service that replaces its workers at once."""
    service = start(tmp_path, "tests.processes.hurried")
    try:
        yield service
    finally:
        assert service.stop() == 0
    assert "Traceback" not in service.log.read_text()


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_workers_lose_only_their_own_requests(hurried: Server, kills: int) -> None:
    chance = random.Random(0)
    with Callers(hurried, CALLERS) as callers:
        wait_for(lambda: len(callers.statuses) > 50)
        before = Held.of(hurried)
        for _ in range(kills):
            name = f"worker {chance.randrange(2)}"
            victim = hurried.roles()[name]
            seen = len(callers.failures)
            time.sleep(chance.uniform(0, 0.05))
            expected, looked = ports_of_clients(victim), time.monotonic()
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: is_replaced(hurried, name, victim))  # noqa: B023
            for failure in callers.failures[seen:]:
                assert failure.port in expected or failure.opened > looked, failure
    assert set(callers.statuses) == {200}
    assert len(callers.failures) <= kills * CALLERS
    wait_for(lambda: hurried.metric("xcit_inflight_requests") == 0)
    wait_for(lambda: hurried.metric("xcit_held_bytes") == 0)
    answered, counted = len(callers.statuses), hurried.metric(ANSWERED)
    assert answered <= counted <= answered + len(callers.failures)
    assert hurried.metric("xcit_worker_restarts_total") == kills
    after = Held.of(hurried)
    assert after.files == before.files
    assert after.memory <= before.memory + 30 * MIB
    assert after.threads == before.threads
    check_that_counters_are_exact(hurried, counted)


def is_replaced(service: Server, name: str, ended: int) -> bool:
    """Whether another worker serves in place of one that has ended."""
    number = name.split()[1]
    found = service.roles().get(name, ended)
    return found != ended and service.metric(f'xcit_worker_up{{worker="{number}"}}') == 1


@dataclass(frozen=True)
class Held:
    """Files, threads and bytes of memory of the supervisor and the engine."""

    files: int
    threads: int
    memory: int

    @classmethod
    def of(cls, service: Server) -> "Held":
        processes = [service.process.pid, service.roles()["engine 0"]]
        resources = [read_resources(process) for process in processes]
        threads = [len([*Path(f"/proc/{process}/task").iterdir()]) for process in processes]
        return cls(
            sum(each.open_files for each in resources if each),
            sum(threads),
            sum(each.resident_bytes for each in resources if each),
        )


def check_that_counters_are_exact(service: Server, counted: float) -> None:
    for _ in range(25):
        with httpx.Client(timeout=PATIENCE) as client:
            assert service.predict(client).status_code == 200
            assert service.predict(client).status_code == 200
    assert service.metric(ANSWERED) == counted + 50, "of all workers, at once"


def test_stopped_worker_keeps_no_client_waiting_and_is_replaced(hurried: Server) -> None:
    """A worker that stops reading just when connections arrive."""
    stopped = hurried.roles()["worker 1"]
    usual = [seconds_of_new_connection(hurried) for _ in range(24)]
    os.kill(stopped, signal.SIGSTOP)
    beside: list[float] = []
    while len(beside) < 24 and not hurried.metric("xcit_worker_restarts_total"):
        beside.append(seconds_of_new_connection(hurried))
    assert len(beside) >= 8, "clients are served before it is replaced"
    assert median(beside) < median(usual) + 0.05
    wait_for(lambda: is_replaced(hurried, "worker 1", stopped))
    assert "worker 1 has not responded for 3 s and is killed" in hurried.log.read_text()
    assert hurried.metric("xcit_worker_restarts_total") == 1


def test_requests_of_a_stopped_worker_fail_when_it_is_replaced(hurried: Server) -> None:
    with Callers(hurried, CALLERS) as callers:
        wait_for(lambda: len(callers.statuses) > 50)
        stopped = hurried.roles()["worker 0"]
        os.kill(stopped, signal.SIGSTOP)
        own = ports_of_clients(stopped)
        wait_for(lambda: is_replaced(hurried, "worker 0", stopped))
        time.sleep(0.2)
    assert own
    assert {failure.port for failure in callers.failures} <= own
    assert set(callers.statuses) == {200}
    wait_for(lambda: hurried.metric("xcit_inflight_requests") == 0)


def seconds_of_new_connection(service: Server) -> float:
    begun = time.monotonic()
    with httpx.Client(timeout=PATIENCE) as client:
        assert service.predict(client).status_code == 200
    return time.monotonic() - begun


@pytest.mark.parametrize("receiver", ["engine", "supervisor, as JSON"])
def test_worker_that_sends_nonsense_is_replaced_and_counted(tmp_path: Path, receiver: str) -> None:
    marker = tmp_path / "done"
    service = start(tmp_path, "tests.processes.nonsense", test_to=receiver, test_done=marker)
    try:
        with Callers(service, CALLERS) as callers:
            wait_for(marker.exists)
            wait_for(lambda: service.metric("xcit_worker_restarts_total") == 1)
            wait_for(lambda: service.metric('xcit_worker_up{worker="0"}') == 1)
        assert set(callers.statuses) <= {200, 503}
        assert service.metric("xcit_dropped_messages_total") == 1
        wait_for(lambda: service.metric("xcit_inflight_requests") == 0)
        assert service.predict().status_code == 200
    finally:
        assert service.stop() == 0
