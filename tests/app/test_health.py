"""Probes, and the state of the service."""

import asyncio
from typing import Any

import pytest

from app.serving.errors import StartupError

from .conftest import (
    FakeClassifier,
    running,
    starting,
)
from .test_metrics import scrape

pytestmark = pytest.mark.anyio


async def test_state_and_model_are_reported(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, lifecycle):
        read = await scrape(client)
        assert [read("xcit_state", state=s) for s in ("loading", "ready")] == [0, 1]
        info = {"name": "fake", "version": "3", "family": "none", "checkpoint_sha256": "0" * 64}
        info["backend_reason"] = "there is no other"
        assert (
            read("xcit_model_info", **info, device="cpu", backend="fake", precision="float32") == 1
        )
        health = (await client.get("/healthz")).json()
        assert health["state"] == "ready"
        assert health["model"]["name"] == "fake"
        assert health["model"]["backend_reason"] == "there is no other"
        assert health["model"]["temperature"] == 1.5
        lifecycle.drain()
        read = await scrape(client)
        assert [read("xcit_state", state=s) for s in ("ready", "draining")] == [0, 1]


async def test_loading_is_alive_and_not_ready(classifier: FakeClassifier) -> None:
    classifier.gate.clear()

    def load() -> FakeClassifier:
        assert classifier.gate.wait(10)
        return classifier

    async with starting(load) as (client, _):
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/readyz")).json() == {"state": "loading"}
        assert (await client.get("/healthz")).json()["model"] is None
        refused = await client.post("/predict", content=b"1")
        assert refused.json()["type"] == "/problems/not-ready"
        assert int(refused.headers["retry-after"]) >= 1
        classifier.gate.set()
        async with asyncio.timeout(10):
            while (await client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("error", "failure"),
    [(StartupError("no such file"), "no such file"), (KeyError("x"), "loading failed: ")],
)
async def test_failed_load_is_reported(error: Exception, failure: str) -> None:
    def load() -> Any:
        raise error

    async with starting(load) as (client, _):
        async with asyncio.timeout(10):
            while (await client.get("/livez")).status_code != 503:
                await asyncio.sleep(0.001)
        health = (await client.get("/healthz")).json()
        assert health["state"] == "failed"
        assert health["failure"].startswith(failure)
