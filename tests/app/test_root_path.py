"""Path prefixes, for proxies that strip them and for those that do not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette._utils import get_route_path

from app.config.settings import SettingsError, read_settings
from app.http.api_keys import new_key
from app.http.app import create_app
from app.http.middleware import add_root_path

from .conftest import FakeClassifier, make_settings, running
from .messages import problem

pytestmark = pytest.mark.anyio

PREFIX = "/models/xcit"


@pytest.mark.parametrize("sent", ["", PREFIX], ids=["stripped", "not stripped"])
async def test_every_route_is_found_with_and_without_the_path_prefix(
    classifier: FakeClassifier, sent: str
) -> None:
    async with running(classifier, root_path=PREFIX, admin_token="secret") as (client, _):
        for path in ("/", "/docs", "/page.js", "/healthz", "/livez", "/metrics", "/openapi.json"):
            assert (await client.get(f"{sent}{path}")).status_code == 200, path
        response = await client.post(f"{sent}/predict", content=b"3")
        assert response.json()["predictions"][0]["class_id"] == 3
        assert (await client.get(f"{sent}/v2/models/xcit")).json()["name"] == "xcit"
        admin = {"Authorization": "Bearer secret"}
        assert (await client.post(f"{sent}/admin/reload", headers=admin)).status_code == 200
        assert (
            "script-src 'self'" in (await client.get(f"{sent}/")).headers["content-security-policy"]
        )
        detail = problem(await client.get(f"{sent}/nowhere"), 404, "not-found")
        assert detail == f"GET /nowhere: Not Found; {PREFIX}/docs lists the routes"
        metrics = (await client.get(f"{sent}/metrics")).text
    assert 'xcit_requests_total{code="200",endpoint="/predict"} 1.0' in metrics
    assert 'xcit_requests_total{code="200",endpoint="/healthz"} 1.0' in metrics


async def test_path_prefix_is_the_page_with_absolute_references(
    classifier: FakeClassifier,
) -> None:
    async with running(classifier, root_path=PREFIX) as (client, _):
        for path in (PREFIX, f"{PREFIX}/", "/"):
            page = (await client.get(path)).text
            assert f'src="{PREFIX}/page.js"' in page
            assert f'href="{PREFIX}/docs"' in page
        assert (await client.get(f"{PREFIX}x/healthz")).status_code == 404


async def test_openapi_document_has_the_path_prefix_as_server(classifier: FakeClassifier) -> None:
    async with running(classifier, root_path=PREFIX) as (client, _):
        document = (await client.get("/openapi.json")).json()
    assert document["servers"] == [{"url": PREFIX}]
    assert "/predict" in document["paths"]
    async with running(FakeClassifier()) as (client, _):
        assert "servers" not in (await client.get("/openapi.json")).json()


async def test_no_spelling_of_the_path_prefix_bypasses_the_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(new_key("alice")[1])
    async with running(FakeClassifier(), root_path="/p", api_keys_file=keys) as (client, _):
        for before in ("", "/p", "/p/p", "/p/p/p", "//p", "/p/", "/P", "/%70", "/p/%2e"):
            for path in ("/predict", "/predict/batch", "/explain", "/v2/models/xcit/infer"):
                response = await client.post(f"{before}{path}", content=b"1")
                assert response.status_code in (401, 404, 405), (before, path)


segments = st.lists(st.sampled_from(["p", "q", "predict", "", "."]), max_size=5)


@given(segments, st.sampled_from(["", "/p", "/p/q", "/q"]))
def test_middleware_and_router_see_the_same_path(path: list[str], root_path: str) -> None:
    scope = {"path": "/" + "/".join(path), "root_path": ""}
    assert add_root_path(scope, root_path) == get_route_path(scope)


@pytest.mark.parametrize(
    ("given_path", "path"),
    [
        ("", ""),
        ("/", ""),
        ("/xcit", "/xcit"),
        ("/models/xcit/", PREFIX),
        ("/a.b/~c-_d", "/a.b/~c-_d"),
    ],
)
def test_final_slash_of_the_path_prefix_is_removed(given_path: str, path: str) -> None:
    assert read_settings(root_path=given_path).root_path == path


@pytest.mark.parametrize(
    "wrong",
    [
        "xcit",
        "//evil.example",
        "/a//b",
        "/a/../b",
        "/..",
        "/a?b",
        "/a#b",
        "/a b",
        '/"',
        "/ü",
        "http://x",
    ],
)
def test_invalid_path_prefix_is_reported_on_one_line(wrong: str) -> None:
    with pytest.raises(SettingsError, match="must be a path of letters") as caught:
        read_settings(root_path=wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["/v2", "/predict", "/docs/x", "/metrics"])
def test_first_segment_of_a_route_is_refused_as_path_prefix(wrong: str) -> None:
    with pytest.raises(SettingsError, match=f"^XCIT_ROOT_PATH={wrong}: /.* is a route"):
        create_app(make_settings(root_path=wrong), FakeClassifier)
