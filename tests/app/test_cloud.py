"""The container contracts of SageMaker and Vertex AI."""

import base64
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from app.config import cloud
from app.config.cloud import find_weights, follow_cloud
from app.config.settings import SettingsError
from app.http.app import create_app
from app.serving.lifecycle import Lifecycle, State

from .conftest import FakeClassifier, make_settings, running, starting, until
from .messages import problem

pytestmark = pytest.mark.anyio


def instances(*contents: bytes, **more: Any) -> dict[str, Any]:
    return {"instances": [{"b64": base64.b64encode(each).decode()} for each in contents], **more}


async def test_cloud_routes_do_not_exist_by_default(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        assert (await client.get("/ping")).status_code == 404
        assert (await client.post("/invocations", content=b"1")).status_code == 404


async def test_sagemaker_routes_answer(classifier: FakeClassifier) -> None:
    def load() -> FakeClassifier:
        assert classifier.gate.wait(10)
        return classifier

    classifier.gate.clear()
    async with starting(load, cloud="sagemaker") as (client, lifecycle):
        assert (await client.get("/ping")).status_code == 503
        problem(await client.post("/invocations", content=b"1"), 503, "not-ready")
        classifier.gate.set()
        await until(lambda: lifecycle.ready)
        assert (await client.get("/ping")).status_code == 200
        answers = [
            await client.post("/invocations?top_k=2", content=b"3"),
            await client.post("/predict?top_k=2", content=b"3"),
        ]
        assert answers[0].json() == answers[1].json()
        problem(await client.post("/invocations", content=b"bad"), 400, "invalid-image")


@asynccontextmanager
async def vertex(
    classifier: FakeClassifier, choices: Mapping[str, Any] = MappingProxyType({}), **environ: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, started as Vertex AI does."""
    lifecycle = Lifecycle()
    settings = make_settings(cloud="vertex", **choices)
    app = create_app(settings, lambda: classifier, lifecycle=lifecycle, environ=environ)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        await until(lambda: lifecycle.state is State.READY)
        yield client


async def test_vertex_routes_are_read_from_the_environment(classifier: FakeClassifier) -> None:
    route = "/v1/endpoints/7/deployedModels/9"
    async with vertex(
        classifier, AIP_HEALTH_ROUTE=route, AIP_PREDICT_ROUTE=f"{route}:predict"
    ) as client:
        assert (await client.get(route)).status_code == 200
        request = instances(b"3", b"7", parameters={"top_k": 1})
        response = await client.post(f"{route}:predict", json=request)
        assert response.status_code == 200, response.text
        assert response.json() == {
            "predictions": [
                {
                    "model": {"name": "fake", "version": "3"},
                    "predictions": [{"class_id": i, "label": f"class_{i}", "score": 0.9}],
                }
                for i in (3, 7)
            ]
        }
        assert (await client.post("/predict", content=b"3")).is_success


async def test_vertex_route_replaces_a_route_with_the_same_path(classifier: FakeClassifier) -> None:
    async with vertex(
        classifier, AIP_HEALTH_ROUTE="/healthz", AIP_PREDICT_ROUTE="/predict"
    ) as client:
        assert (await client.get("/healthz")).json() == {"state": "ready"}
        response = await client.post("/predict", json=instances(b"3"))
        assert len(response.json()["predictions"][0]["predictions"]) == 5
        paths = (await client.get("/openapi.json")).json()["paths"]
        schema = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert (schema["title"], paths["/healthz"]["get"]["tags"]) == ("VertexRequest", ["cloud"])
        assert schema["properties"]["instances"]["items"]["required"] == ["b64"]
        assert "/predict/batch" in paths


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "body: Invalid JSON"),
        (b"{}", 400, "instances: Field required"),
        (json.dumps(instances()).encode(), 400, "instances is empty"),
        (b'{"instances": [{"image": "MQ=="}]}', 400, "instances.0.b64: Field required"),
        (b'{"instances": [{"b64": "%"}]}', 400, "the image is not valid base64"),
        (b'{"instances": [{"b64": ""}, {"b64": "%"}]}', 400, "image 1 of 2, counted from 0: the"),
        (json.dumps(instances(b"1", parameters={"top_k": 11})).encode(), 422, "from 1 to 10"),
        (
            json.dumps(instances(b"1", parameters={"k": 1})).encode(),
            400,
            "parameters.k: unknown member",
        ),
        (
            json.dumps(instances(b"1", b"bad")).encode(),
            400,
            "image 1 of 2, counted from 0: it does not decode",
        ),
        (json.dumps(instances(*[b"1"] * 257)).encode(), 413, "257 images in one request"),
    ],
)
async def test_malformed_vertex_request_is_refused(
    classifier: FakeClassifier, body: bytes, status: int, message: str
) -> None:
    async with vertex(classifier) as client:
        assert (await client.get("/health")).is_success
        response = await client.post("/predict", content=body)
        assert response.status_code == status
        assert message in response.json()["detail"]


def test_cloud_port_overrides_the_setting_and_is_validated() -> None:
    vertex, sagemaker = make_settings(cloud="vertex"), make_settings(cloud="sagemaker")
    found = follow_cloud(vertex, {"AIP_HTTP_PORT": "9000"})
    assert (found.host, found.port) == ("0.0.0.0", 9000)
    assert follow_cloud(vertex, {}).port == 8080
    assert follow_cloud(sagemaker, {"SAGEMAKER_BIND_TO_PORT": "9001"}).port == 9001
    plain = make_settings()
    assert follow_cloud(plain, {"AIP_HTTP_PORT": "9000"}) is plain
    for wrong in ("none", "0", "65536", ""):
        with pytest.raises(SettingsError, match=f"AIP_HTTP_PORT={wrong}: must be a port"):
            follow_cloud(vertex, {"AIP_HTTP_PORT": wrong})
    with pytest.raises(SettingsError, match="AIP_PREDICT_ROUTE=predict: must be a path"):
        create_app(vertex, FakeClassifier, environ={"AIP_PREDICT_ROUTE": "predict"})


def test_sagemaker_serves_the_model_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud, "SAGEMAKER_MODEL", tmp_path)
    settings = make_settings(cloud="sagemaker")
    assert follow_cloud(settings, {}).checkpoint is None
    (tmp_path / "._mine.safetensors").touch()
    assert follow_cloud(settings, {}).checkpoint is None
    (tmp_path / "mine.safetensors").touch()
    assert follow_cloud(settings, {}).checkpoint == str(tmp_path)
    chosen = make_settings(cloud="sagemaker", checkpoint="other")
    assert follow_cloud(chosen, {}).checkpoint == "other"
    assert find_weights(tmp_path / "nowhere") is None
    with pytest.raises(SettingsError, match=r"mine\.safetensors: cannot be read: Not a directory"):
        find_weights(tmp_path / "mine.safetensors")


@pytest.mark.parametrize("content", [b"3", b"{3}" * 100], ids=["short", "with braces"])
async def test_number_of_instances_is_limited_by_the_queue(
    classifier: FakeClassifier, content: bytes
) -> None:
    for most, more in ((256, {}), (1_500, {"max_queue_size": 1_500})):
        async with vertex(classifier, more) as client:
            request = instances(*[content] * most, parameters={"top_k": 1})
            response = await client.post("/predict", json=request)
            assert response.status_code == 200, response.text
            assert len(response.json()["predictions"]) == most
            request = instances(*[content] * (most + 1))
            detail = problem(await client.post("/predict", json=request), 413, "too-many-images")
            assert detail == f"{most + 1} images in one request; the maximum is {most}"


async def test_vertex_route_may_match_a_route_pattern(classifier: FakeClassifier) -> None:
    async with vertex(classifier, AIP_PREDICT_ROUTE="/v2/models/xcit/infer") as client:
        response = await client.post("/v2/models/xcit/infer", json=instances(b"3", b"7"))
        assert len(response.json()["predictions"]) == 2


async def test_cloud_probe_is_routine(
    classifier: FakeClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    async with vertex(classifier, AIP_HEALTH_ROUTE="/probe") as client:
        await client.get("/probe")
        assert not caplog.records
        await client.get("/v2")
        assert len(caplog.records) == 1
