"""Unknown query parameters are refused, with a suggestion."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from .conftest import FakeClassifier, running, starting, until
from .messages import form, problem
from .oip_messages import INFER, TWO, request_of
from .test_cloud import instances, vertex

pytestmark = pytest.mark.anyio

ROUTES: dict[str, dict[str, Any]] = {
    "/predict": {"content": b"3"},
    "/predict/batch": {"files": form(b"3")},
    "/explain": {"content": b"3"},
    INFER: request_of(TWO),
}
READ = {"/predict": "top_k", "/predict/batch": "top_k", "/explain": "head"}


@pytest.mark.parametrize("path", ROUTES)
async def test_unknown_parameter_is_refused(classifier: FakeClassifier, path: str) -> None:
    async with running(classifier) as (client, _):
        for query in ("topic=1", "k=1", "api_key=abc", "=1", "%00=1", "a", "a=1;b=2"):
            response = await client.post(f"{path}?{query}", **ROUTES[path])
            detail = detail_of(response)
            assert "unknown query parameter '" in detail
            assert (READ.get(path) or '{"classification": n}') in detail
        assert not classifier.batches
        for query in ("", "?", "?&"):
            assert (await client.post(f"{path}{query}", **ROUTES[path])).status_code == 200


def detail_of(response: httpx.Response) -> str:
    assert response.status_code == 422, response.text
    assert response.json()["type"] == "/problems/invalid-parameter"
    return str(response.json()["detail"])


@pytest.mark.parametrize("name", ["topk", "top-k", "TOP_K", "topK", "top_K", "top_ k"])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
async def test_similar_parameter_is_suggested(
    classifier: FakeClassifier, path: str, name: str
) -> None:
    async with running(classifier) as (client, _):
        response = await client.post(path, params={name: "1"}, **ROUTES[path])
        assert "did you mean top_k?" in detail_of(response)
        response = await client.post(path, params={"top_k": "1", name: "1"}, **ROUTES[path])
        assert "did you mean top_k?" in detail_of(response)


async def test_unknown_parameter_is_refused_before_the_body_is_read(
    classifier: FakeClassifier,
) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async with running(classifier) as (client, _):
        for path in ROUTES:
            assert (await client.post(f"{path}?topk=1", content=body())).status_code == 422


async def test_repeated_parameters_and_long_queries_are_refused(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        response = await client.post("/predict?top_k=1&top_k=2", content=b"3")
        assert "duplicate query parameter top_k" in detail_of(response)
        response = await client.post(f"/predict?{'a=1&' * 300}", content=b"3")
        assert "the query has 1200 bytes; the maximum is 1000" in detail_of(response)


async def test_cloud_routes_refuse_unknown_parameters(classifier: FakeClassifier) -> None:
    async with starting(lambda: classifier, cloud="sagemaker") as (client, lifecycle):
        await until(lambda: lifecycle.ready)
        response = await client.post("/invocations?topk=1", content=b"3")
        detail = problem(response, 422, "invalid-parameter")
        assert "did you mean top_k?" in detail
    async with vertex(classifier, AIP_PREDICT_ROUTE="/vertex") as client:
        response = await client.post("/vertex?top_k=1", json=instances(b"3"))
        detail = problem(response, 422, "invalid-parameter")
        assert 'send {"parameters": {"top_k": …}} in the body' in detail


async def test_routes_for_probes_and_scrapers_ignore_parameters(
    classifier: FakeClassifier,
) -> None:
    async with running(classifier) as (client, _):
        for path in ("/livez", "/readyz", "/healthz", "/metrics", "/v2", "/v2/models/xcit"):
            assert (await client.get(f"{path}?verbose=1")).status_code == 200
