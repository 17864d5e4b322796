"""HEAD requests, and 405 with the allowed methods."""

from collections.abc import AsyncIterator, Iterator, Sequence

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute

from app.config.settings import Settings
from app.http.app import create_app
from app.serving.lifecycle import Lifecycle, State

from .conftest import FakeClassifier, make_settings, until

pytestmark = pytest.mark.anyio

SETTINGS = {
    "plain": make_settings(admin_token="t"),
    "sagemaker": make_settings(cloud="sagemaker"),
    "vertex": make_settings(cloud="vertex"),
    "prefix": make_settings(root_path="/models/xcit"),
    "cors": make_settings(cors_origins="https://photos.example.org"),
}
NAMES = {"{model}": "fake", "{name}": "fake", "{version}": "3", "{model_name}": "fake"}
CHANGING = {"x-request-id", "date", "server-timing"}


def routes_of(routes: Sequence[BaseRoute]) -> Iterator[BaseRoute]:
    for route in routes:
        included = getattr(route, "original_router", None)
        yield from routes_of(included.routes) if included else [route]


def paths(app: FastAPI, method: str) -> set[str]:
    found = {
        str(getattr(route, "path", ""))
        for route in routes_of(app.routes)
        if method in (getattr(route, "methods", None) or ())
    }
    for name, value in NAMES.items():
        found = {path.replace(name, value) for path in found}
    return found | ({"/nowhere"} if method == "GET" else set())


@pytest.fixture(params=SETTINGS)
async def service(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    settings: Settings = SETTINGS[request.param]
    lifecycle = Lifecycle()
    environ = {"AIP_HTTP_PORT": "8080", "AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": "/p"}
    app = create_app(settings, FakeClassifier, lifecycle=lifecycle, environ=environ)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        await until(lambda: lifecycle.state is State.READY)
        yield app, client


async def test_head_is_answered_like_get_without_the_body(
    service: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = service
    found = paths(app, "GET")
    assert len(found) > 12, found
    assert not [path for path in found if "{" in path]
    for path in sorted(found):
        got = await client.get(path)
        head = await client.head(path)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        if path == "/metrics":  # it contains the number of requests
            assert head.headers["content-type"] == got.headers["content-type"]
            assert int(head.headers["content-length"]) > 1000
        else:
            assert comparable(head) == comparable(got), path


def comparable(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in CHANGING}


async def test_conditional_head_returns_304(
    service: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    _, client = service
    tag = (await client.get("/")).headers["etag"]
    for method in ("GET", "HEAD"):
        response = await client.request(method, "/", headers={"If-None-Match": tag})
        assert response.status_code == 304


async def test_405_lists_the_allowed_methods(
    service: tuple[FastAPI, httpx.AsyncClient],
) -> None:
    app, client = service
    getting, posting = paths(app, "GET"), paths(app, "POST")
    for path in sorted((getting | posting) - {"/nowhere"}):
        methods = {"GET", "HEAD"} if path in getting else set()
        methods |= {"POST"} if path in posting else set()
        for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE"} - methods:
            response = await client.request(method, path)
            assert response.status_code == 405, (method, path)
            assert set(response.headers["allow"].split(", ")) == methods, path
            if method != "HEAD":
                assert response.json()["detail"].startswith(f"{method} {path}: Method Not Allowed")


async def test_openapi_does_not_list_head(service: tuple[FastAPI, httpx.AsyncClient]) -> None:
    app, _ = service
    assert not [path for path, methods in app.openapi()["paths"].items() if "head" in methods]
