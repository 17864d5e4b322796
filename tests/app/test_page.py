"""The files of the page at ``/``: headers, caching, references and policy."""

import re
import threading
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

from app.http.api_keys import new_key
from app.http.routes.pages import DIRECTORY, FILES, SWAGGER_UI_FILES, SWAGGER_UI_FOLDER
from app.serving.lifecycle import State

from .conftest import FakeClassifier, running, starting
from .messages import problem

pytestmark = pytest.mark.anyio

TYPES = {
    "/": "text/html; charset=utf-8",
    "/page.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/icon.svg": "image/svg+xml",
    "/docs": "text/html; charset=utf-8",
    "/docs.js": "text/javascript; charset=utf-8",
}
# SHA-256 of the files of swagger-ui-dist 5.34.0 on npm.
SWAGGER_UI_SHA256 = {
    "/swagger-ui.css": "c3cfe8248c4b0b89673600fb829924eafbac6de4bc4b2b06f5f5243483074d0a",
    "/swagger-ui.js": "3f6abf70480db7e07914df4c98a77385f22ea585eaf457a3e6415ba0eae2d167",
}
PAGES = {"index.html": "/", "docs.html": "/docs"}
LINKS = {"/docs", "/metrics"}


class Elements(HTMLParser):
    """The elements of a page, with attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_data(self, data: str) -> None:
        if self.found and data.strip():
            self.found[-1][2].append(data.strip())

    def references(self) -> set[str]:
        """All URLs in the page."""
        return {
            str(attributes[name])
            for _, attributes, _ in self.found
            for name in ("href", "src", "action", "formaction", "srcset", "data")
            if name in attributes
        }


def source(name: str) -> str:
    return (DIRECTORY / name).read_text()


async def test_files_have_their_media_type_and_must_be_revalidated(
    classifier: FakeClassifier,
) -> None:
    assert {name for name, *_ in FILES.values()} == {path.name for path in DIRECTORY.iterdir()}
    async with running(classifier) as (client, _):
        for path, media_type in TYPES.items():
            response = await client.get(path)
            assert response.content == (DIRECTORY / FILES[path][0]).read_bytes()
            assert response.headers["content-type"] == media_type
            assert response.headers["cache-control"] == "no-cache"
            assert response.headers["x-content-type-options"] == "nosniff"


async def test_cached_file_is_answered_with_304(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        tags = {path: (await client.get(path)).headers["etag"] for path in FILES}
        assert len(set(tags.values())) == len(FILES)
        for path, tag in tags.items():
            for known in (tag, f"W/{tag}", f'"other", {tag}'):  # proxies that compress make it weak
                response = await client.get(path, headers={"If-None-Match": known})
                assert (response.status_code, response.content) == (304, b"")
                assert response.headers["etag"] == tag
            changed = await client.get(path, headers={"If-None-Match": '"other"'})
            assert changed.status_code == 200


async def test_page_needs_no_key_and_is_served_while_the_model_loads(
    classifier: FakeClassifier, tmp_path: Path
) -> None:
    allowed = threading.Event()

    def load() -> FakeClassifier:
        assert allowed.wait(10), "the test did not allow it"
        return classifier

    keys = tmp_path / "keys"
    keys.write_text(new_key("alice")[1])
    async with starting(load, api_keys_file=keys) as (client, lifecycle):
        assert (await client.get("/")).status_code == 200
        assert lifecycle.state is State.LOADING
        problem(await client.post("/predict", content=b"1"), 401, "unauthorized")
        allowed.set()


@pytest.mark.parametrize(("page", "pictures"), [("/", "blob:"), ("/docs", "blob: data:")])
async def test_page_may_load_only_files_of_the_service(
    classifier: FakeClassifier, page: str, pictures: str
) -> None:
    async with running(classifier) as (client, _):
        policy = (await client.get(page)).headers["content-security-policy"]
    assert dict(directive.split(" ", 1) for directive in policy.split("; ")) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": f"'self' {pictures}",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }


async def test_pages_refer_only_to_existing_routes(classifier: FakeClassifier) -> None:
    named = set()
    async with running(classifier) as (client, _):
        for name in PAGES:
            for reference in Elements(source(name)).references():
                named.add(f"/{reference}")  # relative, so that it works below any path
                assert (await client.get(f"/{reference}")).status_code == 200
    assert named == {*FILES, *SWAGGER_UI_FILES, *LINKS} - {"/"}
    for name in ("page.css", "page.js", "docs.js"):
        code = re.sub(r"(?m)//.*$", "", source(name))
        assert not re.search(r"//\w|url\(|@import|\bimport\b(?!\.meta)", code), name


@pytest.mark.parametrize("page", PAGES)
def test_neither_scripts_nor_styles_are_inline(page: str) -> None:
    for tag, attributes, text in Elements(source(page)).found:
        assert tag != "style"
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        if tag == "script":
            assert attributes["src"]
            assert not text


async def test_swagger_ui_is_served_unchanged(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        for path, (name, media_type, _) in SWAGGER_UI_FILES.items():
            response = await client.get(path)
            assert response.headers["content-type"] == f"{media_type}; charset=utf-8"
            assert response.content == (SWAGGER_UI_FOLDER / name).read_bytes()
            assert sha256(response.content).hexdigest() == SWAGGER_UI_SHA256[path]


async def test_page_is_not_in_the_openapi_document(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        paths = (await client.get("/openapi.json")).json()["paths"]
    assert not set(paths) & {*FILES, *SWAGGER_UI_FILES}


async def test_requests_of_the_page_are_counted_by_their_route(classifier: FakeClassifier) -> None:
    async with running(classifier) as (client, _):
        await client.get("/")
        metrics = (await client.get("/metrics")).text
    assert 'xcit_requests_total{code="200",endpoint="/"} 1.0' in metrics
