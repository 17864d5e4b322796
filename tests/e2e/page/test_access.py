"""API keys on the pages, and pages that must not call the service."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    expect,
)

from app.http.api_keys import new_key
from tests.server_process import Server
from tests.servers import FixedPage

from ..conftest import SLOW_SERVICE, StartServer
from ..test_contract import picture
from .actions import OpenPage, choose, complaint, file_of, number, result

pytestmark = pytest.mark.one_process("about the page")


def test_page_asks_for_a_required_key_and_stores_it_nowhere(
    start_server: StartServer, open_page: OpenPage, tmp_path: Path
) -> None:
    key, line = new_key("alice")
    file = tmp_path / "keys"
    file.write_text(line)
    page = open_page(start_server(*SLOW_SERVICE, api_keys_file=file))
    field = page.get_by_label("API key")
    expect(field).to_be_hidden()
    choose(page, b"0")
    expect(complaint(page)).to_contain_text("The service requires an API key: API key required")
    expect(field).to_be_focused()
    page.keyboard.type("guess")
    page.keyboard.press("Enter")
    expect(complaint(page)).to_contain_text("invalid API key")
    field.fill(key)
    page.get_by_role("button", name="Use this key").click()
    expect(result(page)).to_contain_text("100.0 %")
    expect(field).to_be_hidden()
    choose(page, b"0", "next.jpg")
    expect(result(page)).to_contain_text("next.jpg")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]
    page.reload()
    choose(page, b"0")
    expect(field).to_be_focused()


def test_docs_page_works_without_external_resources(server: Server, open_page: OpenPage) -> None:
    page = open_page(server, path="/docs")
    operation = page.locator("#operations-health-healthz_healthz_get")
    operation.get_by_role("button").first.click()
    operation.get_by_role("button", name="Try it out").click()
    with page.expect_response("**/healthz") as answer:
        operation.get_by_role("button", name="Execute").click()
    assert answer.value.status == 200
    expect(operation.get_by_text('"state"').first).to_be_visible()
    predict = page.locator("#operations-predict-predict_predict_post")
    predict.get_by_role("button").first.click()
    predict.get_by_role("button", name="Try it out").click()
    predict.locator("input[type=file]").set_input_files(file_of(picture()))
    with page.expect_response("**/predict*") as answer:
        predict.get_by_role("button", name="Execute").click()
    assert answer.value.json()["predictions"]


def test_api_key_can_be_entered_on_the_docs_page(
    start_server: StartServer, open_page: OpenPage, tmp_path: Path
) -> None:
    key, line = new_key("visitor")
    (tmp_path / "keys").write_text(line)
    guarded = start_server(*SLOW_SERVICE, api_keys_file=tmp_path / "keys")
    page = open_page(guarded, path="/docs")
    page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".modal-ux")
    dialog.locator("input").fill(key)
    dialog.get_by_role("button", name="Apply credentials").click()
    dialog.get_by_role("button", name="Close").first.click()
    operation = page.locator("#operations-metrics-metrics_metrics_get")
    operation.get_by_role("button").first.click()
    operation.get_by_role("button", name="Try it out").click()
    with page.expect_response("**/metrics") as answer:
        operation.get_by_role("button", name="Execute").click()
    assert answer.value.status == 200


FORM = """<form id=f method=post enctype=multipart/form-data action="%s/predict">
<input name=file value=x></form><script>f.submit()</script>"""
FETCH = """<script>fetch("%s/predict", {method: "POST", mode: "no-cors", body: "x"})
.finally(() => document.title = "done")</script>"""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])  # another port; another site
@pytest.mark.parametrize("attack", [FORM, FETCH], ids=["form", "fetch"])
def test_page_of_another_origin_cannot_post(
    server: Server, browser: Browser, attack: str, host: str
) -> None:
    refused = 'xcit_rejected_total{reason="cross_site_request"}'
    before = number(server, refused)
    with FixedPage(attack % server.url) as other:
        page = browser.new_page()
        with page.expect_response("**/predict") as answer:
            page.goto(f"http://{host}:{other.server_port}/")
        assert answer.value.status == 403
        page.close()
    assert number(server, refused) == before + 1


def test_dns_rebinding_is_refused(start_server: StartServer, browser: Browser) -> None:
    server = start_server(*SLOW_SERVICE, allowed_hosts="")
    rebound = browser.browser_type.launch(
        executable_path=shutil.which("chromium"),
        args=["--host-resolver-rules=MAP rebound.example 127.0.0.1"],
    )
    page = rebound.new_page()
    answers = [
        page.goto(f"http://{name}:{server.port}/healthz")
        for name in ("rebound.example", "localhost")
    ]
    assert [answer and answer.status for answer in answers] == [421, 200]
    rebound.close()
