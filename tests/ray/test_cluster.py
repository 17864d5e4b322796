"""A real Ray cluster on this machine: HTTP and Python callers, a death and a new checkpoint.

All tests share one cluster, and run in the order of this file. They take a minute or two.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.http.app import create_app
from app.loading import load_model
from app.serving.errors import UnsupportedMediaType
from app.serving.lifecycle import Lifecycle, State
from benchmarks.ray_serve import started_serve
from tests.app.conftest import make_settings, until
from tests.e2e.test_reload import put
from tests.server_process import PHOTO, wait_for

from .clusters import CORES, deploy, replicas
from .library import RUNNING, Resources, assigned, ray, serve

pytestmark = pytest.mark.slow

SETTINGS = {"backend": "torch", "precision": "float32", "max_batch_size": 4, "streams": 1}
CALLERS = 4


@dataclass
class Deployed:
    """The running application."""

    handle: Any
    url: str
    checkpoint: Path

    @property
    def second(self) -> Path:
        """The checkpoint that replaces the first one."""
        return self.checkpoint.with_name("second.safetensors")

    def models(self) -> set[str]:
        """The names of the models that answer, by several requests."""
        found = [httpx.post(f"{self.url}/predict", content=PHOTO, timeout=30) for _ in range(8)]
        return {response.json()["model"]["name"] for response in found}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    checkpoint = tmp_path_factory.mktemp("ray") / "served.safetensors"
    put(checkpoint, "first")
    with started_serve(CORES) as port:
        deploy(application(checkpoint))
        yield Deployed(serve.get_app_handle("xcit"), f"http://127.0.0.1:{port}", checkpoint)


def application(first: Path, user_config: dict[str, str] | None = None) -> dict[str, Any]:
    """Two replicas of one core each."""
    replicas = {"num_cpus": 1, "min_replicas": 2, "max_replicas": 2}
    return {
        "name": "xcit",
        "import_path": "app.ray:build",
        "args": {"checkpoint": str(first)} | replicas | SETTINGS,
        "deployments": [{"name": "xcit", "user_config": user_config or {}}],
    }


def count_others(name: str) -> int:
    """The running replicas, without one that is ending."""
    status = serve.status().applications["xcit"].deployments["xcit"]
    return min(len(replicas().keys() - {name}), status.replica_states.get(RUNNING, 0))


@dataclass
class Calls:
    """The requests of all callers: begin, end, and the model's name or the error of each."""

    answers: list[tuple[float, float, str]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def counts(self) -> Counter[str]:
        return Counter(result for _, _, result in self.answers)


@contextmanager
def calling(url: str) -> Iterator[Calls]:
    """Send requests from several threads until the end of the block."""
    calls = Calls()

    def call() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not calls.done.is_set():
                begun = time.monotonic()
                try:
                    response = client.post("/predict", content=PHOTO)
                    ok = response.status_code == 200
                    result = response.json()["model"]["name"] if ok else str(response.status_code)
                except httpx.HTTPError as error:
                    result = type(error).__name__
                calls.answers.append((begun, time.monotonic(), result))

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield calls
    finally:
        calls.done.set()
        for thread in threads:
            thread.join()


@pytest.mark.anyio
async def test_answers_equal_those_of_the_plain_application(deployed: Deployed) -> None:
    settings = make_settings(checkpoint=str(deployed.checkpoint), **SETTINGS)
    lifecycle = Lifecycle()
    app = create_app(settings, partial(load_model, settings, 1), lifecycle=lifecycle)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=deployed.url) as plain,
        httpx.AsyncClient(base_url=deployed.url, timeout=30) as ours,
    ):
        await until(lambda: lifecycle.state is not State.LOADING)
        expected = await plain.post("/predict?top_k=3", content=PHOTO)
        found = await ours.post("/predict?top_k=3", content=PHOTO)
        assert found.status_code == expected.status_code == 200
        assert found.json() == expected.json()
        assert await deployed.handle.predict.remote(PHOTO, top_k=3) == expected.json()
        added = {"date", "server"}  # by the server below the application
        assert found.headers.keys() - added == expected.headers.keys()
        assert len(found.headers.get_list("x-request-id")) == 1
        for path in ("/", "/openapi.json", "/v2/models/xcit", "/readyz", "/nothing"):
            mine, theirs = await ours.get(path), await plain.get(path)
            assert mine.status_code == theirs.status_code, path
            assert mine.status_code == 404 or mine.content == theirs.content, path


def test_errors_have_the_form_of_the_plain_server(deployed: Deployed) -> None:
    ours = {"X-Request-ID": "mine"}
    response = httpx.post(f"{deployed.url}/predict", content=b"not an image", headers=ours)
    assert response.status_code == 415
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"] == "mine"
    with pytest.raises(UnsupportedMediaType):
        deployed.handle.predict.remote(b"not an image").result()


def test_a_new_user_config_swaps_the_checkpoint_and_loses_no_request(deployed: Deployed) -> None:
    put(deployed.second, "second")
    with calling(deployed.url) as calls:
        wait_for(lambda: calls.counts()["first"] > CALLERS, "answers of the first model")
        before = replicas()
        deploy(application(deployed.checkpoint, {"checkpoint": str(deployed.second)}))
        assert replicas() == before
        wait_for(lambda: calls.counts()["second"] > CALLERS, "answers of the second model")
    assert calls.counts().keys() == {"first", "second"}
    assert deployed.models() == {"second"}


def test_a_killed_replica_loses_only_its_open_requests_and_is_replaced(
    deployed: Deployed,
) -> None:
    before = replicas()
    with calling(deployed.url) as calls:
        wait_for(lambda: len(calls.answers) > CALLERS, "answers")
        name, namespace = next(iter(before.items()))
        killed = time.monotonic()
        ray.kill(ray.get_actor(name, namespace))
        wait_for(lambda: count_others(name) == 2, "a new replica")
        replaced = time.monotonic()
        wait_for(lambda: calls.answers[-1][0] > replaced, "answers of the new replica")
    lost = [call for call in calls.answers if call[2] != "second"]
    assert all(begun < killed < ended for begun, ended, _ in lost)
    assert len(lost) <= CALLERS


def test_a_replica_that_is_removed_answers_its_open_requests(deployed: Deployed) -> None:
    smaller = application(deployed.checkpoint, {"checkpoint": str(deployed.second)})
    smaller["deployments"][0]["autoscaling_config"] = {"min_replicas": 1, "max_replicas": 1}
    with calling(deployed.url) as calls:
        wait_for(lambda: len(calls.answers) > CALLERS, "answers")
        deploy(smaller)
        wait_for(lambda: len(replicas()) == 1, "the end of a replica")
    assert calls.counts().keys() == {"second"}


class Probe:
    """An actor that reads its resources as a replica does."""

    def assigned(self) -> Resources:
        return assigned()


def test_a_replica_has_the_cores_that_ray_assigns(deployed: Deployed) -> None:
    probe: Any = ray.remote(num_cpus=1)(Probe).remote()
    # The replica that the test above has removed leaves a core.
    assert ray.get(probe.assigned.remote(), timeout=60) == Resources(1, 0, alone=True)
