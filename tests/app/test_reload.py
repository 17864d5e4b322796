"""Reloads: the model and the keys change together or not at all."""

import asyncio
import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from weakref import ref

import httpx
import pytest

from app.http.api_keys import new_key
from app.serving.engine_manager import EngineManager
from app.serving.errors import StartupError
from app.serving.lifecycle import Lifecycle

from .conftest import INFO, FakeClassifier, make_settings, starting, until
from .messages import problem

pytestmark = pytest.mark.anyio

ADMIN = {"Authorization": "Bearer secret"}


class Loader:
    """Makes classifiers of version 1, 2, …; can fail, or wait at a gate."""

    def __init__(self) -> None:
        self.count = 0
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.made: list[Callable[[], FakeClassifier | None]] = []

    def __call__(self) -> FakeClassifier:
        assert self.gate.wait(10), "no test opened the gate"
        if self.failure:
            raise self.failure
        self.count += 1
        classifier = FakeClassifier()
        classifier.info = replace(INFO, name="textures", version=str(self.count))
        self.made.append(ref(classifier))
        return classifier


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def write_key(keys_file: Path, name: str) -> dict[str, str]:
    """Write a file with one new key, and return headers with the key."""
    key, line = new_key(name)
    keys_file.write_text(line)
    return {"X-API-Key": key}


async def status(client: httpx.AsyncClient, key: dict[str, str]) -> int:
    return (await client.post("/predict", content=b"1", headers=key)).status_code


async def version(client: httpx.AsyncClient) -> str:
    return str((await client.get("/healthz")).json()["model"]["version"])


@pytest.mark.parametrize(
    "failure", [StartupError("weights.pt: truncated"), RuntimeError("a defect")], ids=repr
)
async def test_failed_model_keeps_the_old_keys(
    loader: Loader, keys_file: Path, failure: Exception
) -> None:
    alice = write_key(keys_file, "alice")
    choices = {"admin_token": "secret", "api_keys_file": keys_file}
    async with starting(loader, **choices) as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        bob = write_key(keys_file, "bob")
        loader.failure = failure
        response = await client.post("/admin/reload", headers=ADMIN)
        detail = problem(response, 422, "reload-failed")
        assert detail == f"{failure}; textures 1 is still served"
        assert [await status(client, key) for key in (alice, bob)] == [200, 401]
        loader.failure = None
        assert (await client.post("/admin/reload", headers=ADMIN)).is_success
        assert [await status(client, key) for key in (alice, bob)] == [401, 200]


async def test_invalid_keys_keep_the_old_model(loader: Loader, keys_file: Path) -> None:
    alice = write_key(keys_file, "alice")
    choices = {"admin_token": "secret", "api_keys_file": keys_file}
    async with starting(loader, **choices) as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        keys_file.write_text("nonsense")
        response = await client.post("/admin/reload", headers=ADMIN)
        assert "line 1: must be NAME:SHA-256" in problem(response, 422, "reload-failed")
        assert await status(client, alice) == 200
        assert await version(client) == "1"
        assert loader.count == 1, "no model is loaded for keys that cannot be used"


async def test_new_keys_become_active_with_the_new_model(loader: Loader, keys_file: Path) -> None:
    alice = write_key(keys_file, "alice")
    choices = {"admin_token": "secret", "api_keys_file": keys_file}
    async with starting(loader, **choices) as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        bob = write_key(keys_file, "bob")
        loader.gate.clear()
        reloading = asyncio.create_task(client.post("/admin/reload", headers=ADMIN))
        await asyncio.sleep(0.02)
        assert [await status(client, key) for key in (alice, bob)] == [200, 401]
        loader.gate.set()
        assert (await reloading).is_success
        assert [await status(client, key) for key in (alice, bob)] == [401, 200]


async def test_keys_and_model_change_in_the_same_loop_iteration(
    loader: Loader,
) -> None:
    engines = EngineManager(make_settings(), Lifecycle(), loader)
    await engines.start()
    activated: list[str] = []
    reloading = asyncio.create_task(engines.reload(lambda: activated.append("keys")))
    seen = set()
    while not reloading.done():
        assert engines.current
        seen.add((engines.current.info.version, len(activated)))
        await asyncio.sleep(0)
    assert {("1", 0)} <= seen <= {("1", 0), ("2", 1)}
    assert activated == ["keys"]
    await engines.close()


async def test_reload_reports_both_models(loader: Loader, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with starting(loader, admin_token="secret") as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        assert 'version="1"' in await model_info(client)
        answer = (await client.post("/admin/reload", headers=ADMIN)).json()
        assert (answer["name"], answer["version"]) == ("textures", "2")
        assert answer["replaced"] == {"name": "textures", "version": "1"}
        assert "textures 2 is served instead of textures 1" in caplog.text
        assert 'version="2"' in await model_info(client)
        loader.failure = StartupError("weights.pt: truncated")
        await client.post("/admin/reload", headers=ADMIN)
        assert "reload failed, textures 2 is still served: weights.pt: truncated" in caplog.text
        assert 'version="2"' in await model_info(client)


async def model_info(client: httpx.AsyncClient) -> str:
    lines = (await client.get("/metrics")).text.splitlines()
    (line,) = (line for line in lines if line.startswith("xcit_model_info{"))
    return line


async def test_reload_times_out_and_can_be_repeated(
    loader: Loader,
) -> None:
    async with starting(loader, admin_token="secret", reload_timeout_s=0.05) as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        loader.gate.clear()
        threads = inference_threads()
        for _ in range(2):  # the second starts while the first still loads
            response = await client.post("/admin/reload", headers=ADMIN)
            detail = problem(response, 422, "reload-failed")
            assert detail == "the model was not ready within 0.05 s; textures 1 is still served"
        assert "\nxcit_reload_failed 1.0\n" in (await client.get("/metrics")).text
        assert (await client.post("/predict", content=b"1")).json()["model"]["version"] == "1"
        loader.gate.set()
        await until(lambda: inference_threads() == threads)
        gc.collect()
        assert [made() is not None for made in loader.made] == [True, False, False], "kept"
        assert await version(client) == "1"


def inference_threads() -> int:
    return sum(thread.name.startswith("inference-") for thread in threading.enumerate())


async def test_loading_stops_after_the_step_that_timed_out() -> None:
    gate = threading.Event()
    made: list[FakeClassifier] = []

    class SlowToOpen(FakeClassifier):
        def open(self) -> None:
            super().open()
            if len(made) > 1:
                assert gate.wait(10)

    def load() -> FakeClassifier:
        made.append(SlowToOpen())
        return made[-1]

    async with starting(load, admin_token="secret", reload_timeout_s=0.05) as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        response = await client.post("/admin/reload", headers=ADMIN)
        assert "not ready within 0.05 s" in problem(response, 422, "reload-failed")
        gate.set()
        await asyncio.sleep(0.02)
        assert (made[1].opened, made[1].timings, made[1].warmed) == (1, [], 0)


async def test_timeout_error_of_the_loader_is_reported_unchanged(loader: Loader) -> None:
    async with starting(loader, admin_token="secret") as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        loader.failure = TimeoutError("the hub does not answer")
        response = await client.post("/admin/reload", headers=ADMIN)
        assert "the hub does not answer" in problem(response, 422, "reload-failed")
