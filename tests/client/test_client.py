"""Both clients, on the application and on scripted services."""

import asyncio
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from xcit_client import (
    NO_RETRIES,
    AsyncClient,
    Client,
    Engine,
    Health,
    Model,
    Prediction,
    Row,
    ServedModel,
    ServiceError,
    Unauthorized,
    Unavailable,
)

from app.http import schemas
from app.http.api_keys import new_key
from app.http.app import create_app
from app.serving.classifier import ModelInfo
from app.serving.engines import EngineProgress
from tests.app.conftest import FakeClassifier, make_settings, until
from tests.servers import Predictions

from .conftest import Script, good
from .served import served

pytestmark = pytest.mark.anyio


async def test_prediction_has_model_rows_timings_and_request_id(classifier: FakeClassifier) -> None:
    async with served(classifier) as client:
        prediction = await client.predict(b"3", top_k=2)
    assert prediction.model == Model("fake", "3")
    assert prediction.rows == (Row(3, "class_3", 0.9), Row(0, "class_0", 0.45))
    assert prediction.best == prediction.rows[0]
    assert {"read", "preprocess", "queue", "inference", "total"} == set(prediction.timings)
    assert 0 <= prediction.timings["inference"] <= prediction.timings["total"] < 10_000
    assert prediction.request_id


async def test_health_is_returned(classifier: FakeClassifier) -> None:
    async with served(classifier) as client:
        health = await client.health()
    assert (health.alive, health.ready, health.state) == (True, True, "ready")
    assert health.model is not None
    assert (health.model.name, health.model.num_classes) == ("fake", 10)
    assert [engine.device for engine in health.engines] == ["cpu"]
    assert (health.http_workers, health.http_workers_reason) == (0, "as configured")


async def test_health_of_a_loading_service_has_no_model(classifier: FakeClassifier) -> None:
    transport = httpx.ASGITransport(create_app(make_settings(), lambda: classifier))
    async with AsyncClient("http://x", retries=NO_RETRIES, transport=transport) as client:
        health = await client.health()
        assert (health.ready, health.model) == (False, None)
        with pytest.raises(Unavailable, match="the service is loading") as caught:
            await client.predict(b"3")
    assert caught.value.retry_after == 2.0


def names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


def test_results_have_every_field_of_the_answers() -> None:
    assert names(ServedModel) == names(ModelInfo)
    assert names(Health) == set(schemas.Health.model_fields)
    assert names(Engine) == names(EngineProgress)
    assert names(Row) == set(schemas.PredictionRow.model_fields)


@pytest.mark.parametrize(("head", "name"), [(None, b"None"), (2, b"2")])
async def test_explain_returns_the_picture(
    classifier: FakeClassifier, head: int | None, name: bytes
) -> None:
    async with served(classifier) as client:
        assert await client.explain(b"3", head) == b"3 by " + name
        with pytest.raises(ServiceError, match="head is '9'"):
            await client.explain(b"3", 9)


async def test_api_key_is_sent(classifier: FakeClassifier, tmp_path: Path) -> None:
    key, line = new_key("tests")
    (tmp_path / "keys").write_text(line)
    async with served(classifier, api_key=key, api_keys_file=tmp_path / "keys") as client:
        assert (await client.predict(b"3")).best.class_id == 3
    async with served(classifier, api_keys_file=tmp_path / "keys") as client:
        with pytest.raises(Unauthorized, match="API key required"):
            await client.predict(b"3")


def test_path_of_the_url_is_kept() -> None:
    script = Script(good())
    with Client("http://gate/models/xcit/", transport=script) as client:
        client.predict(b"3")
    assert script.requests[0].url.path == "/models/xcit/predict"


def test_foreign_server_timing_entries_are_ignored() -> None:
    header = 'cfL4;desc="?proto=TCP", cache;dur=, read;dur=0.50, total; dur=12.25;desc=x'
    with Client("http://x", transport=Script(good({"Server-Timing": header}))) as client:
        prediction = client.predict(b"3")
    assert prediction.timings == {"read": 0.5, "total": 12.25}
    assert prediction.best == Row(3, "cat", 0.9, "n02123045")


async def test_connections_are_reused(counting: Predictions) -> None:
    with Client(counting.url) as client:
        assert len([*client.predict_many([b"3"] * 30, concurrency=1)]) == 30
    assert counting.connections == 1
    with Client(counting.url) as client:
        assert len([*client.predict_many([b"3"] * 60, concurrency=8)]) == 60
    assert counting.connections <= 9
    async with AsyncClient(counting.url) as other:
        for _ in range(30):
            await other.predict(b"3")
    assert counting.connections <= 10


async def test_a_waiting_request_can_be_cancelled(classifier: FakeClassifier) -> None:
    classifier.gate.clear()
    async with served(classifier) as client:
        task = asyncio.create_task(client.predict(b"3"))
        await until(lambda: bool(classifier.batches))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        classifier.gate.set()
        assert (await client.predict(b"4")).best.class_id == 4


@pytest.mark.parametrize("classes", [1, 2, 3, 10])
async def test_default_top_k_works_with_few_classes(classes: int) -> None:
    classifier = FakeClassifier()
    classifier.info = replace(classifier.info, num_classes=classes)
    async with served(classifier) as client:
        expected = min(classes, 5)
        assert len((await client.predict(b"0")).rows) == expected
        outcomes = [outcome async for outcome in client.predict_many([b"0"])]
        assert [len(each.rows) for each in outcomes if isinstance(each, Prediction)] == [expected]
        assert len((await client.predict(b"0", top_k=1)).rows) == 1
        with pytest.raises(ServiceError, match=f"from 1 to {classes}"):
            await client.predict(b"0", top_k=classes + 1)
