"""Failures of batches and decoders: the answers, the probes and the end of the process."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.server_process import PATIENCE, WORKERS, Server, wait_for

from .conftest import SLOW_SERVICE, StartServer


def post_together(server: Server, *bodies: bytes) -> list[int]:
    """Send requests that form one batch behind a running one; returns their statuses."""
    with ThreadPoolExecutor(len(bodies) + 1) as pool:
        running = pool.submit(server.post, b"0.8")
        wait_for(lambda: is_running(server), "one is running")
        answers = [pool.submit(server.post, body) for body in bodies]
        assert running.result().status_code == 200
        return [answer.result().status_code for answer in answers]


def is_running(server: Server) -> bool:
    """Whether an image is in a batch."""
    metrics = server.metrics()
    return metrics["xcit_queue_depth"] < metrics["xcit_inflight_requests"]


def assert_ends(server: Server, reason: str) -> None:
    """Check that the probes report the failure, and that the process then exits with the reason."""
    for probe in ("livez", "readyz"):
        assert server.client.get(f"/{probe}").status_code == 503, probe
    assert server.client.get("/healthz").json()["failure"] == reason
    assert server.process.wait(PATIENCE) == 1
    assert server.log.read_text().splitlines()[-1] == f"xcit-serve: {reason}"


@pytest.mark.quick
def test_one_bad_image_fails_alone(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE)
    assert post_together(server, b"0", b"poison", b"0", b"bad") == [200, 500, 200, 400]
    assert server.is_ready()
    assert server.post(b"0").status_code == 200


@pytest.mark.quick
def test_model_that_fails_on_every_input_ends_the_process(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, drain_delay_s=1)
    assert server.post(b"plague").status_code == 503
    assert_ends(server, "inference failed: the self-test failed: NaN")


def test_hanging_batch_ends_the_process(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, batch_timeout_s=1, drain_delay_s=1, max_batch_size=1)
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(server.post, b"hang")]
        wait_for(lambda: server.inflight() == 1, "one hangs")
        answers += [pool.submit(server.post, b"0") for _ in range(2)]
        assert [answer.result().status_code for answer in answers] == [503] * 3
    assert_ends(server, "inference failed: a batch of 1 did not finish within 1 s")


@pytest.mark.quick
def test_out_of_memory_reduces_the_batch_size_permanently(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, max_batch_size=16)
    assert post_together(server, *[b"heavy"] * 8) == [200] * 8
    wait_for(lambda: server.metric("xcit_max_batch_size") == 2, "the metric shows it")
    assert server.client.get("/healthz").json()["model"]["max_batch_size"] == 2
    assert "out of device memory with a batch of 8; the maximum is now 4" in server.log.read_text()
    assert server.is_ready()


def test_oversized_image_returns_503_with_retry_after(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE)
    response = server.post(b"huge")
    assert (response.status_code, response.json()["type"]) == (503, "/problems/overloaded")
    assert response.headers["retry-after"] == "1"
    assert server.is_ready()


STUCK_SOON = {"preprocess_workers": 2, "request_timeout_s": 1, "test_stuck_after": 1}


def test_stuck_decoder_does_not_occupy_a_worker(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, **STUCK_SOON)
    assert server.post(b"nap 60").status_code == 504
    wait_for(lambda: server.metric("xcit_stuck_decoders") == 1, "the decoder counts as stuck")
    for _ in range(4):  # more than one at a time, or the other worker would do
        assert post_together(server, b"nap 0.6", b"nap 0.6") == [200, 200]
    assert "xcit_stuck_decoders 1.0" in server.client.get("/metrics").text
    assert "stuck decoders: 1 of at most 4" in server.log.read_text()


def has_stuck(server: Server, count: int) -> bool:
    server.client.get("/metrics")  # decoders are counted when metrics are read
    return f"stuck decoders: {count} of at most 4" in server.log.read_text()


@pytest.mark.one_process("a worker is replaced, and the service continues")
def test_process_ends_only_when_all_decoders_are_stuck(
    start_server: StartServer,
) -> None:
    server = start_server(*SLOW_SERVICE, **STUCK_SOON, drain_delay_s=1)
    for stuck in (2, 4):
        assert server.post(b"0").status_code == 200
        assert server.is_ready()
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(server.post, b"nap 60") for _ in range(2)]
            assert [answer.result().status_code for answer in answers] == [504, 504]
        wait_for(lambda: has_stuck(server, stuck), "the decoders count as stuck")  # noqa: B023
    assert_ends(server, "all 4 decoders are stuck")


def test_worker_whose_decoders_are_all_stuck_is_replaced(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, **STUCK_SOON, http_workers=1)
    for stuck in ("2", "4"):
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(server.post, b"nap 60") for _ in range(2)]
            assert [answer.result().status_code for answer in answers] == [504, 504]
        wait_for(lambda: f"stuck decoders: {stuck}" in server.log.read_text(), "stuck")  # noqa: B023
    wait_for(lambda: "worker 0 ended" in server.log.read_text(), "its process ends")
    server.wait_ready()
    assert server.metric("xcit_worker_restarts_total") == 1
    assert server.post(b"0").status_code == 200
    assert server.metric("xcit_stuck_decoders") == 0
    assert "worker 0 failed: all 4 decoders are stuck" in server.log.read_text()


def test_decoders_that_share_the_interpreter_lock_are_not_stuck(start_server: StartServer) -> None:
    """Each uses less CPU time than the limit for stuck decoders, but more time by the clock."""
    settings = {"preprocess_workers": 4, "test_stuck_after": 1, "request_timeout_s": 30}
    server = start_server(*SLOW_SERVICE, **settings)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(server.post, b"burn 0.5") for _ in range(8)]
        while not all(answer.done() for answer in answers):
            assert server.client.get("/livez").status_code == 200
            assert "xcit_stuck_decoders 0.0" in server.client.get("/metrics").text
            time.sleep(0.05)
        assert [answer.result().status_code for answer in answers] == [200] * 8
    assert "stuck" not in server.log.read_text()


def test_clean_stop_does_not_wait_for_a_stuck_decoder(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, request_timeout_s=1)
    assert server.post(b"nap 3600").status_code == 504
    assert server.stop() == 0


def test_failure_is_logged_as_json(start_server: StartServer) -> None:
    server = start_server(*SLOW_SERVICE, log_format="json")
    server.post(b"poison")
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    error = next(line for line in lines if line["level"] == "error")
    assert error["message"] == ("an image failed" if WORKERS else "unexpected error")
    assert "RuntimeError: NaN" in error["exception"]
