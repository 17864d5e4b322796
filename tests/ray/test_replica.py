"""A replica on a fake classifier, as Ray Serve calls it."""

import asyncio
import pickle
import threading
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from app.config.settings import Settings
from app.http.api_keys import new_key
from app.serving.errors import (
    BadRequest,
    DeadlineExceeded,
    InvalidImage,
    InvalidParameter,
    NotReady,
    Overloaded,
    ServiceError,
    StartupError,
    TooManyImages,
)
from tests.app.conftest import FakeClassifier, until

from .library import Arguments, Replica

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


class Loads:
    """Counts the loads of a classifier, with the checkpoint of each; ``bad`` cannot be served."""

    def __init__(self, classifier: FakeClassifier) -> None:
        self.checkpoints: list[str | None] = []
        self.gate = threading.Event()
        self.gate.set()
        self.cores = 0
        self._classifier = classifier

    def __call__(self, settings: Settings, cores: int) -> FakeClassifier:
        self.checkpoints.append(settings.checkpoint)
        self.cores = cores
        assert self.gate.wait(10), "no test opened the gate"
        if settings.checkpoint == "bad":
            raise StartupError("bad: not a checkpoint")
        return self._classifier


@asynccontextmanager
async def running(
    load: Callable[[Settings, int], FakeClassifier],
    user_config: dict[str, Any] | None = None,
    **given: Any,
) -> AsyncIterator[tuple[Replica, httpx.AsyncClient]]:
    """A replica as Ray Serve starts and stops it, and a client of its application."""
    replica = Replica(Arguments.model_validate(given).model_dump(), load)
    app = replica.__serve_build_asgi_app__()
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://xcit") as client,
    ):
        await replica.reconfigure(user_config)
        yield replica, client


async def metric(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    (value,) = (line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} "))
    return float(value)


async def test_answers_of_the_handle_equal_those_of_http(classifier: FakeClassifier) -> None:
    async with running(Loads(classifier)) as (replica, client):
        response = await client.post("/predict?top_k=2", content=b"3")
        assert response.status_code == 200
        assert await replica.predict(b"3", top_k=2) == response.json()
        files = [("file", b"3"), ("file", b"bad")]
        answers = (await client.post("/predict/batch", files=files)).json()
        found = await replica.predict_batch([b"3", b"bad"])
    assert found["model"] == answers["model"]
    first, second = answers["results"]
    assert found["results"][0]["predictions"] == first["predictions"]
    error: Any = found["results"][1]["error"]
    same = {"type", "title", "status", "detail"}
    assert {name: error[name] for name in same} == {name: second["error"][name] for name in same}


@pytest.mark.parametrize("order", ["C", "F"])
async def test_an_array_of_floats_is_a_normalised_image(
    classifier: FakeClassifier, order: Any
) -> None:
    image = np.zeros((3, 2, 2), np.float32, order)
    image[0, 0, 0] = 7
    async with running(Loads(classifier)) as (replica, _):
        answer = await replica.predict(image, top_k=1)
    assert [row["class_id"] for row in answer["predictions"]] == [7]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("photo.jpg", "an image is of type str; send the bytes of an image file, or an array"),
        (np.zeros((3, 2, 2)), r"the type 'd'; expected \(3, 2, 2\) of 32-bit floats"),
        (np.zeros((2, 2, 3), np.float32), r"the shape '\(2, 2, 3\)'"),
        (array("f", range(12)), r"the shape '\(12,\)'"),
    ],
    ids=["path", "doubles", "channels last", "flat"],
)
async def test_other_images_are_refused(
    classifier: FakeClassifier, image: Any, message: str
) -> None:
    async with running(Loads(classifier)) as (replica, _):
        with pytest.raises(BadRequest, match=message):
            await replica.predict(image)


async def test_invalid_calls_raise_the_errors_of_the_service(classifier: FakeClassifier) -> None:
    async with running(Loads(classifier), max_queue_size=2) as (replica, client):
        with pytest.raises(InvalidImage):
            await replica.predict(b"bad")
        with pytest.raises(InvalidParameter, match="a whole number from 1 to 10"):
            await replica.predict(b"3", top_k=11)
        with pytest.raises(InvalidParameter, match="timeout_s is 0; it must be a number above 0"):
            await replica.predict(b"3", timeout_s=0)
        with pytest.raises(TooManyImages):
            await replica.predict_batch([b"3"] * 3)
        classifier.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await replica.predict(b"3", timeout_s=0.05)
        classifier.gate.set()
        assert await metric(client, 'xcit_requests_total{code="400",endpoint="ray:predict"}') == 1
        assert await metric(client, 'xcit_rejected_total{reason="invalid_parameter"}') == 2


async def test_handle_callers_and_http_clients_share_the_queue(classifier: FakeClassifier) -> None:
    async with running(Loads(classifier), max_queue_size=1) as (replica, client):
        classifier.gate.clear()
        first = asyncio.create_task(client.post("/predict", content=b"3"))
        await until(lambda: bool(classifier.batches))
        with pytest.raises(Overloaded):
            await replica.predict(b"3")
        classifier.gate.set()
        assert (await first).status_code == 200


@pytest.mark.parametrize(
    "error", [Overloaded("full", retry_after=7), NotReady("no", retry_after=2), InvalidImage("bad")]
)
def test_errors_reach_callers_in_other_processes(error: ServiceError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error)
    assert (found.detail, found.headers) == (error.detail, error.headers)


async def test_the_whole_http_surface_is_there(classifier: FakeClassifier) -> None:
    async with running(Loads(classifier)) as (_, client):
        health = (await client.get("/healthz")).json()
        assert health["http_workers_reason"] == "one process per replica of Ray Serve"
        for path in ("/", "/docs", "/livez", "/readyz", "/metrics", "/v2/models/xcit"):
            assert (await client.get(path)).status_code == 200, path
        drawn = await client.post("/explain", content=b"3")
        assert (drawn.status_code, drawn.content) == (200, b"3 by None")


async def test_policies_apply_to_http_but_not_to_handle_callers(
    classifier: FakeClassifier, tmp_path: Any
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(new_key("caller")[1])
    async with running(Loads(classifier), api_keys_file=str(keys)) as (replica, client):
        assert (await client.post("/predict", content=b"3")).status_code == 401
        assert (await replica.predict(b"3", top_k=1))["predictions"][0]["class_id"] == 3


async def test_the_checkpoint_of_user_config_is_loaded_first(classifier: FakeClassifier) -> None:
    loads = Loads(classifier)
    async with running(loads, {"checkpoint": "new"}, checkpoint="old", num_cpus=1):
        assert loads.checkpoints == ["new"]


async def test_reconfigure_loads_again_only_after_a_change(classifier: FakeClassifier) -> None:
    loads = Loads(classifier)
    async with running(loads, checkpoint="old") as (replica, client):
        await replica.reconfigure(None, rank=1)
        await replica.reconfigure({"checkpoint": "new"})
        await replica.reconfigure({"checkpoint": "new"}, rank=2)
        await replica.reconfigure({"checkpoint": "new", "revision": "2"})
        await replica.reconfigure({})
        assert loads.checkpoints == ["old", "new", "new", "old"]
        assert (await client.post("/predict", content=b"3")).status_code == 200


async def test_a_checkpoint_that_cannot_be_served_leaves_the_old_one(
    classifier: FakeClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    loads = Loads(classifier)
    async with running(loads) as (replica, client):
        await replica.reconfigure({"checkpoint": "bad"})
        assert "is not applied: bad: not a checkpoint; fake 3 is still served" in caplog.text
        assert await metric(client, "xcit_reload_failed") == 1
        assert (await client.post("/predict", content=b"3")).status_code == 200
        await replica.check_health()
        await replica.reconfigure({"checkpoint": "good"})
        assert await metric(client, "xcit_reload_failed") == 0


async def test_reconfigure_waits_for_a_reload_that_is_in_progress(
    classifier: FakeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ray.replica.RETRY_SECONDS", 0.01)
    loads = Loads(classifier)
    async with running(loads, checkpoint="old") as (replica, _):
        loads.gate.clear()
        other = asyncio.create_task(replica._service.reload())
        await until(lambda: len(loads.checkpoints) == 2)
        ours = asyncio.create_task(replica.reconfigure({"checkpoint": "new"}))
        await asyncio.sleep(0.05)
        loads.gate.set()
        await asyncio.gather(other, ours)
        assert loads.checkpoints == ["old", "old", "new"]


async def test_an_invalid_user_config_is_refused_at_the_start_and_not_applied_later(
    classifier: FakeClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        async with running(Loads(classifier), {"top_k": 3}):
            raise AssertionError("the replica has started")
    loads = Loads(classifier)
    async with running(loads) as (replica, client):
        await replica.reconfigure({"checkpont": "new"})
        assert "user_config {'checkpont': 'new'} is not applied" in caplog.text
        assert (await client.post("/predict", content=b"3")).status_code == 200
    assert loads.checkpoints == [None]


async def test_a_replica_whose_first_model_cannot_be_served_does_not_start(
    classifier: FakeClassifier,
) -> None:
    with pytest.raises(RuntimeError, match="the service has failed: bad: not a checkpoint"):
        async with running(Loads(classifier), checkpoint="bad"):
            raise AssertionError("the replica has started")


async def test_a_lost_device_fails_the_health_check(classifier: FakeClassifier) -> None:
    async with running(Loads(classifier)) as (replica, client):
        await replica.check_health()
        assert (await client.post("/predict", content=b"broken")).status_code == 503
        with pytest.raises(RuntimeError, match="has failed: inference failed: the device is lost"):
            await replica.check_health()


async def test_a_failed_replica_ends_its_process_after_the_last_answers(
    classifier: FakeClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr("app.ray.replica.LAST_ANSWERS", 0.01)
    async with running(Loads(classifier)) as (replica, client):
        monkeypatch.setattr(replica, "_alone", True)
        assert (await client.post("/predict", content=b"broken")).status_code == 503
        assert not ended
        await until(lambda: ended == [1])
