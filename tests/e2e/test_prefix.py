"""The service under a path prefix, behind a real reverse proxy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.programs import find_program
from tests.server_process import Server, free_port

from .conftest import SLOW_SERVICE, StartServer
from .haproxy import running_haproxy
from .page.actions import choose, result

pytestmark = pytest.mark.one_process("about addresses behind a proxy")

PREFIX = "/models/xcit"
CONFIGURATION = """
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend stripping
    bind 127.0.0.1:{stripping}
    http-request return status 404 unless {{ path_beg {prefix}/ }} or {{ path {prefix} }}
    http-request replace-path {prefix}/?(.*) /\\1
    use_backend service
frontend passing
    bind 127.0.0.1:{passing}
    http-request return status 404 unless {{ path_beg {prefix}/ }} or {{ path {prefix} }}
    use_backend service
backend service
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header Host internal.example
    option httpchk GET /readyz
    server only 127.0.0.1:{port} check inter 200ms
"""


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    return start_server(*SLOW_SERVICE, root_path=PREFIX, allowed_hosts="internal.example,127.0.0.1")


@contextmanager
def running_proxy(port: int, directory: Path) -> Iterator[dict[str, str]]:
    """Run a proxy; yields the address of the service through each kind of it."""
    ports = {"stripping": free_port(), "passing": free_port()}
    configuration = CONFIGURATION.format(prefix=PREFIX, port=port, **ports)
    with running_haproxy(configuration, ports.values(), directory):
        yield {kind: f"http://127.0.0.1:{ports[kind]}{PREFIX}" for kind in ports}


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with running_proxy(server.port, tmp_path_factory.mktemp("haproxy")) as addresses:
        yield addresses


@pytest.fixture(params=["stripping", "passing"])
def url(proxy: dict[str, str], request: pytest.FixtureRequest) -> str:
    return proxy[request.param]


def test_every_kind_of_route_is_reached(url: str) -> None:
    with httpx.Client(base_url=url, timeout=30) as client:
        for path in ("/", "/docs", "/healthz", "/metrics", "/v2/models/xcit", "/page.js"):
            assert client.get(path).status_code == 200, path
        assert client.post("/predict", content=b"0").status_code == 200
        contract = client.get("/openapi.json").json()
        assert contract["servers"] == [{"url": PREFIX}]
        nowhere = client.get("/nowhere").json()
        assert nowhere["detail"] == f"GET /nowhere: Not Found; {PREFIX}/docs lists the routes"
        browser = {"Origin": url.removesuffix(PREFIX)}
        assert client.post("/predict", content=b"0", headers=browser).status_code == 200
        browser = {"Origin": "http://evil.example"}
        assert client.post("/predict", content=b"0", headers=browser).status_code == 403


@pytest.fixture
def page() -> Iterator[Page]:
    path = find_program("chromium", "chromium", "CI_REQUIRES_BROWSER")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser.new_page()
        browser.close()


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_page_works_with_and_without_its_final_slash(url: str, page: Page, slash: str) -> None:
    page.goto(url + slash)
    choose(page, b"0")
    expect(result(page)).to_contain_text("100.0 %")


def try_healthz(page: Page, url: str) -> None:
    """Call ``/healthz`` from the docs page, which must add the prefix."""
    page.goto(f"{url}/docs")
    operation = page.locator("#operations-health-healthz_healthz_get")
    operation.get_by_role("button").first.click()
    operation.get_by_role("button", name="Try it out").click()
    with page.expect_response(f"{url}/healthz") as answer:
        operation.get_by_role("button", name="Execute").click()
    assert answer.value.status == 200


def test_docs_page_calls_the_service_under_its_prefix(url: str, page: Page) -> None:
    try_healthz(page, url)


def test_pages_work_behind_a_stripping_proxy_without_the_setting(
    start_server: StartServer, page: Page, tmp_path: Path
) -> None:
    with running_proxy(start_server(*SLOW_SERVICE).port, tmp_path) as addresses:
        page.goto(f"{addresses['stripping']}/")
        choose(page, b"0")
        expect(result(page)).to_contain_text("100.0 %")
        try_healthz(page, addresses["stripping"])
