"""The service with several processes, for real: started, loaded, killed, stopped."""

import hashlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.http.api_keys import new_key
from model.checkpoint import BUNDLED_CHECKPOINT
from tests.server_process import PATIENCE, PHOTO, Server, wait_for

from .service import gone, start

pytestmark = [pytest.mark.thorough, pytest.mark.starts_first]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Server]:
    service = start(tmp_path)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            children = [*service.roles().values()]
            assert service.stop() == 0
            wait_for(lambda: gone(children), seconds=5.0)


def test_all_requests_are_answered_and_counted_once(service: Server) -> None:
    assert len(service.roles()) == 3
    with ThreadPoolExecutor(16) as pool:
        answers = [*pool.map(lambda _: service.predict(), range(200))]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["predictions"][0]["label"] for answer in answers} == {"ship"}
    name = 'xcit_requests_total{code="200",endpoint="/predict"}'
    assert service.metric(name) == 200, "at once, of all workers"
    assert service.metric("xcit_batch_size_sum") == 200
    checkpoint = hashlib.sha256(BUNDLED_CHECKPOINT.read_bytes()).hexdigest()[:12]
    of_model = f'checkpoint="{checkpoint}"'
    assert service.metric(f"xcit_prediction_score_count{{{of_model}}}") == 200
    assert service.metric(f'xcit_predicted_class_total{{{of_model},class="ship"}}') == 200
    wait_for(lambda: service.metric("xcit_inflight_requests") == 0)
    assert service.metric("xcit_held_bytes") == 0
    health = httpx.get(f"{service.url}/healthz").json()
    assert (health["images_total"], health["model"]["name"]) == (200, "xcit-cifar10")


def test_every_kind_of_request_is_answered(service: Server) -> None:
    with httpx.Client(base_url=service.url, timeout=PATIENCE) as client:
        form = {"file": ("ship.jpg", PHOTO)}
        assert client.post("/predict", files=form).json()["predictions"][0]["label"] == "ship"
        batch = client.post("/predict/batch", files=[("file", PHOTO), ("file", b"no image")])
        kinds = [sorted(each)[-1] for each in batch.json()["results"]]
        assert kinds == ["predictions", "filename"], "the second image is refused alone"
        assert "error" in batch.json()["results"][1]
        picture = client.post("/explain", content=PHOTO)
        assert picture.content.startswith(b"\x89PNG")
        wrong = client.post("/explain?head=77", content=PHOTO)
        assert wrong.status_code == 422
        pixels = [0.5] * (3 * 32 * 32)
        tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": pixels}
        answer = client.post("/v2/models/xcit_tensor/infer", json={"inputs": [tensor]})
        assert answer.json()["outputs"][0]["shape"] == [1, 10]
        assert client.post("/predict", content=b"no image").status_code == 415
        timing = client.post("/predict", content=PHOTO).headers["server-timing"]
        assert {"read", "preprocess", "queue", "inference"} <= {
            each.split(";")[0].strip() for each in timing.split(",")
        }


def test_connections_are_shared_evenly(tmp_path: Path) -> None:
    service = start(tmp_path, http_workers=4)
    try:
        connections = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(64)]
        metrics = service.metrics()
        counts = [metrics[f'xcit_worker_connections{{worker="{number}"}}'] for number in range(4)]
        assert 64 <= sum(counts) <= 66  # and connections of metrics and readiness checks
        assert max(counts) <= 1.5 * sum(counts) / 4, counts
        for connection in connections:
            connection.close()
    finally:
        assert service.stop() == 0


def test_worker_that_gets_sigterm_answers_its_requests_and_is_replaced(service: Server) -> None:
    worker = service.roles()["worker 0"]
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda _: service.predict().status_code, range(200))
        os.kill(worker, signal.SIGTERM)
        assert {*answers} == {200}
    wait_for(lambda: service.roles().get("worker 0", worker) != worker)
    assert "worker 0 ended with exit code 0" in service.log.read_text()


def test_a_killed_engine_ends_the_service(tmp_path: Path) -> None:
    service = start(tmp_path, "tests.e2e.slow_service", test_gate=tmp_path / "never")
    children = service.roles()
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(service.post, b"gate") for _ in range(8)]
        wait_for(lambda: service.metric("xcit_inflight_requests") == 8)
        os.kill(children["engine 0"], signal.SIGKILL)
        killed = time.monotonic()
        answers = [call.result() for call in calls]
        assert time.monotonic() - killed < 1.0
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["detail"] for answer in answers} == {"the service is failing"}
    assert service.process.wait(PATIENCE) == 1
    wait_for(lambda: gone([*children.values()]), seconds=5.0)
    assert "engine 0 was killed by SIGKILL" in service.log.read_text()


def test_health_of_every_worker_names_the_failure(tmp_path: Path) -> None:
    service = start(tmp_path, drain_delay_s=3)
    os.kill(service.roles()["engine 0"], signal.SIGKILL)
    wait_for(lambda: httpx.get(f"{service.url}/livez", timeout=PATIENCE).status_code == 503)

    def failure() -> object:
        return httpx.get(f"{service.url}/healthz", timeout=PATIENCE).json()["failure"]

    wait_for(failure)
    assert {failure() for _ in range(8)} == {"engine 0 was killed by SIGKILL"}
    assert service.process.wait(PATIENCE) == 1


def test_several_engines_share_the_images_and_a_reload(tmp_path: Path) -> None:
    service = start(tmp_path, engines=2, admin_token="secret")
    try:
        assert {"engine 0", "engine 1"} < service.roles().keys()
        with ThreadPoolExecutor(16) as pool:
            answers = [*pool.map(lambda _: service.predict(), range(200))]
        assert {answer.status_code for answer in answers} == {200}
        health = httpx.get(f"{service.url}/healthz").json()
        counts = [engine["images_total"] for engine in health["engines"]]
        assert sum(counts) == 200
        assert min(counts) >= 20, "an idle engine gets the next image"
        headers = {"Authorization": "Bearer secret"}
        done = httpx.post(f"{service.url}/admin/reload", headers=headers, timeout=PATIENCE)
        assert done.json()["replaced"] == {"name": "xcit-cifar10", "version": "1"}
        assert service.predict().status_code == 200
        children = service.roles()
        os.kill(children["engine 1"], signal.SIGKILL)
        assert service.process.wait(PATIENCE) == 1, "no half of the service is left"
        wait_for(lambda: gone([*children.values()]), seconds=5.0)
    finally:
        service.process.kill()
        service.process.wait()


def test_workers_are_added_as_the_engine_has_measured(tmp_path: Path) -> None:
    service = start(tmp_path, "tests.processes.growing", http_workers="auto", test_busy_workers=2.4)
    try:
        assert service.metric('xcit_worker_up{worker="2"}') == 1, "at once: the service is ready"
        assert len(service.roles()) == 4, "three workers and an engine"
        assert service.metric("xcit_http_workers") == 3
        for _ in range(12):  # connections reach all workers
            health = httpx.get(f"{service.url}/healthz").json()
            assert health["http_workers"] == 3
            assert health["http_workers_reason"] == (
                "auto: at full throughput, decoding and HTTP take 2.4 of 6 cores, by measurement"
            )
            assert service.post(b"0").status_code == 200
    finally:
        assert service.stop() == 0


def test_a_killed_supervisor_leaves_no_process(service: Server) -> None:
    children = service.roles()
    assert len(children) == 3
    service.process.kill()
    service.process.wait()
    wait_for(lambda: gone([*children.values()]), seconds=2.0)


def test_a_stop_under_load_loses_no_accepted_request(service: Server) -> None:
    statuses: list[int] = []
    refused = 0

    def call(_: int) -> None:
        nonlocal refused
        with httpx.Client(timeout=PATIENCE) as client:
            try:
                statuses.append(service.predict(client).status_code)
            except httpx.ConnectError:
                refused += 1

    with ThreadPoolExecutor(8) as pool:
        calls = pool.map(call, range(400))
        wait_for(lambda: len(statuses) > 50)
        service.process.terminate()
        assert len([*calls]) == 400
    assert service.process.wait(PATIENCE) == 0
    assert set(statuses) <= {200, 503}
    assert refused > 0
    assert "Traceback" not in service.log.read_text()


def test_an_interrupt_of_the_whole_group_is_a_clean_stop(tmp_path: Path) -> None:
    service = start(tmp_path)
    for process in (service.process.pid, *service.roles().values()):
        os.kill(process, signal.SIGINT)
    assert service.process.wait(PATIENCE) == 0
    assert "Traceback" not in service.log.read_text()


def test_a_reload_switches_all_workers_and_their_keys(tmp_path: Path) -> None:
    keys, (alice, line) = tmp_path / "keys", new_key("alice")
    keys.write_text(line)
    service = start(tmp_path, api_keys_file=keys, admin_token="secret", metrics_need_key=False)
    admin = {"Authorization": "Bearer secret"}
    try:
        with httpx.Client(base_url=service.url, timeout=PATIENCE) as client:
            bob, line = new_key("bob")
            keys.write_text("nonsense")
            broken = client.post("/admin/reload", headers=admin)
            assert (broken.status_code, "line 1" in broken.json()["detail"]) == (422, True)
            assert reaches(service, alice)
            keys.write_text(line)
            done = client.post("/admin/reload", headers=admin)
            assert done.json()["replaced"] == {"name": "xcit-cifar10", "version": "1"}
        assert reaches(service, bob)
        assert not reaches(service, alice)
        assert service.metric("xcit_reload_failed") == 0
    finally:
        assert service.stop() == 0


def reaches(service: Server, key: str) -> bool:
    """Whether a key is accepted; the same answer in a dozen connections."""
    statuses = set()
    for _ in range(12):
        with httpx.Client(timeout=PATIENCE) as client:
            answer = client.post(
                f"{service.url}/predict", content=PHOTO, headers={"X-API-Key": key}
            )
            statuses.add(answer.status_code)
    assert len(statuses) == 1
    return statuses == {200}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"root_path": "/predict"}, "/predict is a route of the service"),
        ({"cors_origins": "photos"}, "expected an origin"),
    ],
)
def test_settings_that_cannot_be_used_are_a_usage_error(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(AssertionError, match=reason):
        start(tmp_path, **settings)
