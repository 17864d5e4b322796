"""The policies of routes: declared for each, and guarded by default."""

from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI, Request, Response
from httpx import AsyncClient
from starlette.routing import Mount, Route

from app.http import app as app_module
from app.http.api_keys import new_key
from app.http.app import create_app
from app.http.policy import GUARDED, Access, policy, policy_of
from app.http.route_table import RouteTable
from app.http.service import Service

from .conftest import FakeClassifier, make_settings, running
from .messages import problem

pytestmark = pytest.mark.anyio

OPEN = {
    *("/", "/docs", "/docs.js", "/icon.svg", "/openapi.json", "/page.css", "/page.js"),
    *("/swagger-ui.css", "/swagger-ui.js"),
    *("/livez", "/readyz", "/healthz"),
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/repository/index"),
    *(
        f"/v2/models/{{name}}{version}{below}"
        for version in ("", "/versions/{version}")
        for below in ("", "/config", "/ready", "/stats")
    ),
}
CLOUD_HEALTH = {"sagemaker": "/ping", "vertex": "/health"}


def routes_of(service: Service) -> list[Route]:
    """Every route of the application, once."""
    routes = [route for router in app_module.make_routers(service) for route in router.routes]
    assert all(isinstance(route, Route) for route in routes)
    return [route for route in routes if isinstance(route, Route)]


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(new_key("alice")[1])
    return path


@pytest.mark.parametrize("cloud", ["sagemaker", "vertex"])
def test_every_route_declares_its_policy(cloud: str, keys_file: Path) -> None:
    settings = make_settings(cloud=cloud, api_keys_file=keys_file, admin_token="secret")
    routes = routes_of(create_app(settings, FakeClassifier, environ={}).state.service)
    undeclared = [route.path for route in routes if not hasattr(route.endpoint, "policy")]
    assert undeclared == []
    access = {route.path: policy_of(route.endpoint).access for route in routes}
    assert {path for path, needed in access.items() if needed is Access.OPEN} == (
        OPEN | {CLOUD_HEALTH[cloud]}
    )
    assert {path for path, needed in access.items() if needed is Access.ADMIN} == {"/admin/reload"}
    admitted = {route.path for route in routes if policy_of(route.endpoint).admission}
    assert admitted == {path for path, needed in access.items() if needed is Access.KEY} - {
        "/metrics"
    }


@pytest.mark.parametrize("cloud", [None, "sagemaker", "vertex"])
async def test_every_guarded_route_refuses_requests_without_a_key(
    cloud: str | None, classifier: FakeClassifier, keys_file: Path
) -> None:
    choices = {"cloud": cloud, "api_keys_file": keys_file, "admin_token": "secret"}
    async with running(classifier, **choices) as (client, _):
        document = (await client.get("/openapi.json")).json()
        service = create_app(make_settings(**choices), FakeClassifier, environ={}).state.service
        for route in routes_of(service):
            path = route.path.format(name="xcit", version="3")
            for method in route.methods or ():
                response = await client.request(method, path)
                guarded = policy_of(route.endpoint).access is not Access.OPEN
                assert (response.status_code == 401) == guarded, (method, path)
                if route.include_in_schema:
                    described = document["paths"][route.path][method.lower()]
                    assert ("security" in described) == guarded, (method, path)
    assert classifier.batches == []


def extra_router(service: Service) -> APIRouter:
    """A route that declares no policy, and one that is open."""
    routes = APIRouter()

    @routes.get("/forgotten")
    async def forgotten() -> str:
        return "secret"

    @routes.get("/forgotten/{name}")
    async def forgotten_too(request: Request) -> Response:
        return Response("secret")

    @routes.get("/public")
    @policy(access=Access.OPEN)
    async def public() -> str:
        return "hello"

    return routes


async def test_route_without_a_policy_requires_a_key(
    classifier: FakeClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "ROUTERS", (*app_module.ROUTERS, extra_router))
    key, line = new_key("alice")
    (tmp_path / "keys").write_text(line)
    assert GUARDED.access is Access.KEY
    async with running(classifier, api_keys_file=tmp_path / "keys") as (client, _):
        for path in ("/forgotten", "/forgotten/again"):
            for method in ("GET", "HEAD"):
                response = await client.request(method, path)
                assert response.status_code == 401
            refused = await client.get(path)
            assert "secret" not in refused.text
            problem(refused, 401, "unauthorized")
            assert (await client.get(path, headers={"X-API-Key": key})).is_success
        assert (await client.get("/public")).json() == "hello"
        operations = (await client.get("/openapi.json")).json()["paths"]
    assert operations["/forgotten"]["get"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in operations["/public"]["get"]


async def test_unmatched_requests_get_the_error_format_of_sibling_routes(
    classifier: FakeClassifier,
) -> None:
    async with running(classifier) as (client, _):
        for method, path, status in (
            ("GET", "/v2/nowhere", 404),
            ("PUT", "/v2/models/xcit", 405),
            ("POST", "/v2/models/xcit/infer", 400),
            ("GET", "/v2/models/resnet", 404),
        ):
            response = await client.request(method, path)
            assert response.status_code == status, path
            assert response.json()["error"] == response.json()["detail"]
        for path in ("/nowhere", "/v20", "/"):
            response = await client.post(path)
            assert "error" not in response.json(), path


async def allowed(client: AsyncClient, path: str) -> str:
    response = await client.delete(path)
    assert response.status_code == 405
    return response.headers["allow"]


async def test_405_needs_no_key(classifier: FakeClassifier, keys_file: Path) -> None:
    async with running(classifier, api_keys_file=keys_file) as (client, _):
        assert await allowed(client, "/predict") == "POST"
        assert await allowed(client, "/metrics") == "GET, HEAD"
        assert await allowed(client, "/v2/models/xcit/versions/3/stats") == "GET, HEAD"


def test_route_table_finds_routes_by_method_and_path() -> None:
    async def endpoint(request: Request) -> Response:
        return Response(request.path_params["name"])

    async def injected(name: str) -> str:
        return name

    table = RouteTable(
        [
            Route("/a/b", endpoint, methods=["POST"]),
            Route("/a/{name}", endpoint, methods=["GET"]),
            Route("/c/{name:int}", injected, methods=["GET"]),
        ]
    )
    found = table.find("GET", "/a/b")
    assert (found.path, found.endpoint, found.path_params) == ("/a/{name}", endpoint, {"name": "b"})
    assert table.find("POST", "/a/b").path == "/a/b"
    assert table.find("GET", "/c/7").path_params == {"name": 7}
    assert table.find("GET", "/c/7").endpoint is None
    for method, path in (("GET", "/a"), ("GET", "/c/x"), ("GET", "/a/b/c"), ("GET", "")):
        assert table.find(method, path).path == "unmatched"
        assert table.find(method, path).policy.access is Access.OPEN
    assert table.methods("/a/b") == ["GET", "HEAD", "POST"]


def test_mounted_application_is_refused() -> None:
    with pytest.raises(TypeError, match="expected a route of one path"):
        RouteTable([Mount("/static", FastAPI())])
