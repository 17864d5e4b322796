"""Start, drain, failure and disconnecting clients, with real processes and signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.server_process import PATIENCE, ROOT, SERVE, WORKERS, Server, environment, wait_for

from .conftest import SLOW_SERVICE, StartServer


@pytest.mark.quick
def test_sigterm_under_load_answers_every_admitted_request_and_exits_0(
    start_server: StartServer,
) -> None:
    server = start_server(*SLOW_SERVICE, max_batch_size=4)
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(server.post, b"0.5") for _ in range(12)]
        wait_for(lambda: server.inflight() == 12, "all requests are admitted")
        assert server.stop() == 0
        assert [answer.result().status_code for answer in answers] == [200] * 12


@pytest.mark.quick
def test_draining_shows_in_readyz_at_once_while_requests_are_served(
    start_server: StartServer,
) -> None:
    server = start_server(*SLOW_SERVICE, drain_delay_s=1.5)
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: not server.is_ready(), "readyz says 503")
    assert server.client.get("/readyz").json() == {"state": "draining"}
    assert server.client.get("/livez").status_code == 200
    response = server.post(b"0")
    assert response.status_code == 200
    assert response.headers["connection"] == "close", "the next request may find it closed"
    assert server.process.wait(PATIENCE) == 0


def test_sigterm_to_all_processes_is_the_same_drain(start_server: StartServer) -> None:
    """As systemd stops a service."""
    server = start_server(*SLOW_SERVICE, drain_delay_s=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, b"2.0")  # which ends after the drain delay
        wait_for(lambda: server.inflight() == 1, "it is admitted")
        for process in server.processes():
            os.kill(int(process.name), signal.SIGTERM)
        wait_for(lambda: not server.is_ready(), "draining")
        assert server.client.get("/livez").status_code == 200
        assert running.result().status_code == 200
    assert server.process.wait(PATIENCE) == 0
    check_quiet(server.log.read_text())


@pytest.mark.skipif(not WORKERS, reason="only a worker starts again")
def test_sigterm_to_all_processes_ends_a_starting_worker_quietly(
    start_server: StartServer,
) -> None:
    server = start_server(*SLOW_SERVICE, drain_delay_s=1)
    before = {*server.processes()}
    _, _, worker = sorted(before, key=lambda process: int(process.name))[:3]
    os.kill(int(worker.name), signal.SIGKILL)
    wait_for(lambda: {*server.processes()} - before, "another worker starts")
    for process in server.processes():
        os.kill(int(process.name), signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0
    errors = [line for line in server.log.read_text().splitlines() if "ERROR" in line]
    assert len(errors) == 1, errors
    assert "was killed by SIGKILL" in errors[0]


def test_keyboard_interrupt_skips_the_drain_delay(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, drain_delay_s=3600)
    assert server.stop(signal.SIGINT) == 0


@pytest.mark.quick
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda sent: sent.name)
def test_second_signal_ends_the_drain_without_an_error(
    start_server: StartServer, second: signal.Signals
) -> None:
    """Pending requests are answered, whatever they wait for."""
    server = start_server(*SLOW_SERVICE, drain_delay_s=3600)
    uploads = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    for upload in uploads:
        upload.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")
    with ThreadPoolExecutor(3) as pool:
        hanging = [pool.submit(server.post, body) for body in (b"hang", b"hang", b"nap 3600")]
        wait_for(lambda: server.inflight() == 3, "all are admitted")
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not server.is_ready(), "draining")
        assert server.stop(second) == 0
        answers = [answer.result() for answer in hanging]
    assert [answer.status_code for answer in answers] == [503] * 3
    assert {answer.json()["type"] for answer in answers} == {"/problems/draining"}
    for upload in uploads:
        assert upload.recv(1000).startswith(b"HTTP/1.1 503 ")
        upload.close()
    check_quiet(server.log.read_text())


def test_any_number_of_signals_ends_without_an_error(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, drain_delay_s=3600)
    while server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)  # signals that come at once are one
    assert server.process.returncode == 0
    check_quiet(server.log.read_text())


LATE_SIGNALS = """
import runpy
import signal
import app.cli.serve
end_process = app.cli.serve.end_process
def end_late(code, *lines):
    for late in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(late)
    end_process(code, *lines)
app.cli.serve.end_process = end_late
runpy.run_module("tests.e2e.slow_service", run_name="__main__")
"""


def test_signals_after_the_end_change_nothing(start_server: StartServer) -> None:
    server = start_server("-c", LATE_SIGNALS)
    assert server.stop() == 0
    check_quiet(server.log.read_text())


def check_quiet(log: str) -> None:
    assert "ERROR" not in log
    assert "Traceback" not in log


def has_hangups(server: Server, count: int) -> bool:
    return server.log.read_text().count("SIGHUP in state") == count


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_lines_of_a_signal_carry_no_request_id(
    start_server: StartServer, log_format: str
) -> None:
    """Signals interrupt the event loop while it answers requests."""
    server = start_server(*SLOW_SERVICE, log_format=log_format, drain_delay_s=3600)
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            server.client.get("/nowhere")

    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(call) for _ in range(2)]
        for number in range(1, 11):
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: has_hangups(server, number), "the signal is in the log")  # noqa: B023
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not server.is_ready(), "draining")
        done.set()
        for caller in callers:
            caller.result()
    assert server.stop() == 0
    lines = [line for line in server.log.read_text().splitlines() if "/" not in line]
    assert sum("SIGHUP in state" in line for line in lines) == 10
    assert any("SIGTERM in state ready" in line for line in lines)
    assert not [line for line in lines if "request_id" in line]


@pytest.mark.quick
def test_lost_device_ends_the_process_with_a_reason(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, drain_delay_s=1)
    response = server.post(b"broken")
    assert response.status_code == 503
    assert server.client.get("/livez").status_code == 503
    assert server.client.get("/readyz").status_code == 503
    assert server.process.wait(PATIENCE) == 1
    last = server.log.read_text().splitlines()[-1]
    assert last == "xcit-serve: inference failed: the device is lost"


@pytest.mark.quick
def test_client_that_disconnects_frees_its_slot(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, max_queue_size=3, max_batch_size=1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, b"1.0")
        wait_for(lambda: server.inflight() == 1, "one runs")
        leavers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
        for leaver in leavers:
            leaver.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n30")
        wait_for(lambda: server.inflight() == 3, "two wait")
        assert server.post(b"0").status_code == 503
        for leaver in leavers:
            leaver.close()
        wait_for(lambda: server.inflight() == 1, "they have left")
        assert server.post(b"0").status_code == 200
        assert running.result().status_code == 200
    assert 'xcit_rejected_total{reason="disconnected"} 2.0' in server.client.get("/metrics").text


def test_an_idle_server_uses_no_cpu(start_server: StartServer) -> None:
    server = start_server()

    def is_idle() -> bool:
        before = server.cpu_seconds()
        time.sleep(1)
        return server.cpu_seconds() - before < 0.02

    wait_for(is_idle, "a second with less than 2 % of one core")


def test_json_logs_have_one_object_per_line(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, log_format="json")
    server.post(b"0")
    assert server.stop() == 0
    events = [json.loads(line) for line in server.log.read_text().splitlines()]
    requests = [event for event in events if event["message"] == "request"]
    assert requests[-1]["path"] == "/predict"
    assert requests[-1]["request_id"]


@pytest.mark.quick
@pytest.mark.parametrize("count", [1, 2], ids=["once", "twice"])
def test_sigterm_while_loading_exits_0(count: int) -> None:
    process = subprocess.Popen(
        [sys.executable, *SERVE, "--port", "0"],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if "listening on" in line:
            break
    for _ in range(count):
        process.send_signal(signal.SIGTERM)
    check_quiet(process.stderr.read())
    process.stderr.close()
    assert process.wait(PATIENCE) == 0


def test_sigterm_does_not_wait_for_slow_uploads(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, request_timeout_s=2, drain_timeout_s=3600)
    uploads = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    for upload in uploads:
        upload.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, b"1.0")
        wait_for(lambda: server.inflight() == 1, "one is admitted")
        assert server.stop() == 0
        assert running.result().status_code == 200
    for upload in uploads:
        assert b" 408 " in upload.recv(1000)
        upload.close()
