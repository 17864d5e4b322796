"""Restarts on the same port, after a kill and under load."""

import socket
import threading
import time

import pytest

from tests.server_process import PATIENCE, SERVE, wait_for

from .conftest import SLOW_SERVICE, StartServer


@pytest.mark.parametrize(
    "command", [SERVE, pytest.param(SLOW_SERVICE, marks=pytest.mark.quick)], ids=["real", "fake"]
)
def test_server_starts_normally_after_sigkill(
    start_server: StartServer, command: tuple[str, ...]
) -> None:
    server = start_server(*command)
    server.process.kill()
    server.process.wait(PATIENCE)
    again = start_server(*command, wait=False, port=server.port)
    wait_for(lambda: server.is_ready() or again.process.poll(), "it is ready")
    assert again.stop() == 0


def test_restarts_lose_no_request_that_got_a_connection(
    start_server: StartServer,
) -> None:
    server = start_server(*SLOW_SERVICE, drain_delay_s=0.5)
    lost: list[str] = []
    reset: list[str] = []  # ids; the kernel may reset connections that were not accepted yet
    served = [0] * 8
    done = threading.Event()

    def call(number: int) -> None:
        """Send requests one by one, each on a new connection; retry only refused connections."""
        while not done.is_set():
            try:
                connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            except (ConnectionRefusedError, ConnectionResetError):  # no connection was made
                time.sleep(0.02)
                continue
            with connection:
                request_id = f"{number}-{time.monotonic()}"
                head = f"POST /predict HTTP/1.1\r\nHost: x\r\nX-Request-ID: {request_id}\r\n"
                try:
                    head += "Connection: close\r\nContent-Length: 4\r\n\r\n"
                    connection.sendall(f"{head}0.01".encode())
                    answer = connection.makefile("rb").read()
                except OSError:
                    reset.append(request_id)
                    continue
            if answer.startswith(b"HTTP/1.1 200 "):
                served[number] += 1
            elif b"/problems/not-ready" in answer or b"/problems/draining" in answer:
                time.sleep(0.02)  # refused, with the time to retry after
            else:
                lost.append(str(answer[:200]))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(served))]
    for thread in threads:
        thread.start()
    running, logs = server, [server.log]
    for _ in range(3):
        time.sleep(0.5)
        assert running.stop() == 0
        running = start_server(*SLOW_SERVICE, drain_delay_s=0.5, port=server.port, wait=False)
        logs.append(running.log)
        wait_for(server.is_ready, "it is ready")
    time.sleep(0.5)
    done.set()
    for thread in threads:
        thread.join()
    assert lost == []
    assert len(reset) < 4, reset
    seen = "".join(log.read_text() for log in logs)
    assert not [request_id for request_id in reset if request_id in seen], "lost, though accepted"
    assert min(served) > 20
