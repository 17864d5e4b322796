"""CORS, and the refusal of requests from pages of other sites."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st

from app.config.settings import SettingsError
from app.http.api_keys import new_key
from app.http.app import create_app
from app.http.origins import canonical, parse_origins

from .conftest import FakeClassifier, make_settings, running
from .messages import problem

pytestmark = pytest.mark.anyio

FRIEND = "https://friend.example"


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        (FRIEND, FRIEND),
        ("https://friend.example/", FRIEND),
        ("HTTPS://Friend.EXAMPLE", FRIEND),
        ("https://friend.example:443", FRIEND),
        ("https://friend.example:0443/", FRIEND),
        ("http://friend.example:80", "http://friend.example"),
        ("http://friend.example:443", "http://friend.example:443"),
        ("http://localhost:3000/", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[0:0::1]:80", "http://[::1]"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("*", "*"),
    ],
)
async def test_equivalent_notations_of_an_origin_match(
    classifier: FakeClassifier, written: str, origin: str
) -> None:
    assert parse_origins(f" {written}, https://other.example") == [origin, "https://other.example"]
    sent = FRIEND if origin == "*" else origin
    async with running(classifier, cors_origins=written) as (client, _):
        response = await client.post("/predict", content=b"1", headers={"Origin": sent})
    assert response.is_success
    assert response.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize(
    "written",
    [
        *("friend.example", "localhost:3000", "//friend.example", "https://", "null"),
        *("https://friend.example/app", "https://friend.example?a", "https://friend.example#a"),
        *("https://a@friend.example", "https://*.friend.example", "https://friend.example:99999"),
        *("https://friend.example:x", "http://[::g]", "https://friend.example//", "**"),
    ],
)
def test_malformed_origin_is_reported_on_one_line(written: str) -> None:
    with pytest.raises(SettingsError) as caught:
        create_app(make_settings(cors_origins=f"{FRIEND},{written}"), FakeClassifier)
    message = str(caught.value)
    assert message.startswith(f"XCIT_CORS_ORIGINS={written}: expected an origin, such as https://")
    assert "\n" not in message


@given(st.text(max_size=40))
def test_canonical_form_is_stable(text: str) -> None:
    origin = canonical(f"https://{text}")
    assert origin is None or canonical(origin) == origin


async def test_configured_origins_may_call_the_api(
    classifier: FakeClassifier,
) -> None:
    theirs = {"Origin": FRIEND, "Sec-Fetch-Site": "cross-site"}
    async with running(classifier, cors_origins=f"{FRIEND}, https://other.example") as (client, _):
        response = await client.post("/predict", content=b"1", headers=theirs)
        assert response.headers["access-control-allow-origin"] == FRIEND
        exposed = set(response.headers["access-control-expose-headers"].split(", "))
        assert {"X-Request-ID", "traceresponse", "Inference-Header-Content-Length"} <= exposed
        response = await client.post("/predict", content=b"", headers=theirs)
        assert response.status_code == 400
        assert response.headers["access-control-allow-origin"] == FRIEND
        stranger = await client.post("/predict", content=b"1", headers={"Origin": "https://x.y"})
        assert "access-control-allow-origin" not in stranger.headers
        problem(stranger, 403, "cross-site-request")


async def test_every_route_answers_preflights_of_allowed_origins(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(new_key("alice")[1])
    choices: dict[str, Any] = {"cors_origins": FRIEND, "admin_token": "x", "api_keys_file": keys}
    app = create_app(make_settings(**choices), FakeClassifier)
    paths = set(app.openapi()["paths"]) | {r.path for r in app.routes if isinstance(r, APIRoute)}
    assert {"/admin/reload", "/metrics", "/v2/models/{name}/infer"} <= paths
    headers = "authorization, x-api-key, inference-header-content-length, content-encoding"
    async with running(FakeClassifier(), **choices) as (client, _):
        for path in paths:
            for method in ("GET", "HEAD", "OPTIONS", "POST"):
                preflight = {
                    "Origin": FRIEND,
                    "Access-Control-Request-Method": method,
                    "Access-Control-Request-Headers": headers,
                    "Access-Control-Request-Private-Network": "true",
                }
                response = await client.options(path, headers=preflight)
                assert response.status_code == 200, (path, response.text)
                assert response.headers["access-control-allow-origin"] == FRIEND
                assert response.headers["access-control-max-age"] == "7200"
                assert response.headers["access-control-allow-private-network"] == "true"
                refused = await client.options(path, headers=preflight | {"Origin": "https://x.y"})
                assert refused.status_code == 400
                assert "access-control-allow-origin" not in refused.headers


PAGES: dict[
    str, tuple[dict[str, str], bool]
] = {  # header fields of a browser, and whether they are allowed
    "a client that is no browser": ({}, True),
    "this page": ({"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, True),
    "this page, of a browser without Sec-Fetch-Site": ({"Origin": "http://localhost:8000"}, True),
    "this page behind a proxy that ends TLS": ({"Origin": "https://localhost:8000"}, True),
    "this page behind a proxy that rewrites Host": (
        {"Origin": "https://photos.example", "Sec-Fetch-Site": "same-origin"},
        True,
    ),
    "the same without TLS, whose browsers send no Sec-Fetch-Site": (
        {"Origin": "http://photos.example", "X-Forwarded-Host": "photos.example, inner"},
        True,
    ),
    "the address bar": ({"Sec-Fetch-Site": "none"}, True),
    "a page of another site": (
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        False,
    ),
    "a form of another site, of an old browser": ({"Origin": "https://evil.example"}, False),
    "another port": ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, False),
    "another port, of an old browser": ({"Origin": "http://localhost:3000"}, False),
    "a sandboxed frame": ({"Origin": "null"}, False),
    "a sandboxed frame, by another name": (
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        False,
    ),
    "a page whose browser hides the origin": ({"Sec-Fetch-Site": "cross-site"}, False),
    "nonsense": ({"Origin": "://"}, False),
    "a name that begins alike": ({"Origin": "http://localhost:8000.evil.example"}, False),
}


@pytest.mark.parametrize(("headers", "allowed"), PAGES.values(), ids=PAGES)
async def test_requests_from_pages_of_other_sites_are_refused(
    classifier: FakeClassifier, headers: dict[str, str], allowed: bool
) -> None:
    sent = {"Host": "localhost:8000", "Content-Type": "text/plain", **headers}
    async with running(classifier, admin_token="secret") as (client, _):
        for path in ("/predict", "/predict/batch", "/explain", "/nowhere"):
            response = await client.post(path, content=b"1", headers=sent)
            assert (response.status_code == 403) is not allowed, path
            if not allowed:
                detail = problem(response, 403, "cross-site-request")
                assert "add its origin to XCIT_CORS_ORIGINS" in detail
        reloaded = await client.post(
            "/admin/reload", headers=sent | {"Authorization": "Bearer secret"}
        )
        assert reloaded.status_code == (200 if allowed else 403)
        for path in ("/", "/docs", "/healthz", "/livez", "/metrics"):  # links from anywhere
            assert (await client.get(path, headers=sent)).status_code == 200
    async with running(FakeClassifier(), cors_origins="*") as (client, _):
        assert (await client.post("/predict", content=b"1", headers=sent)).status_code == 200
