"""The page at ``/`` in a real browser."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from tests.programs import find_program
from tests.server_process import Server

from ..conftest import SLOW_SERVICE, starting
from .actions import PLACES, OpenPage

expect.set_options(timeout=30_000)
ASKED = {"/predict", "/explain", "/healthz"}  # these may be refused, or not be there


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_program("chromium", "chromium", "CI_REQUIRES_BROWSER")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open the page of a server; it must call no other host and log nothing to the console."""
    opened: list[Page] = []
    complaints: list[str] = []

    def note_line(message: ConsoleMessage) -> None:
        asked = urlsplit(message.location["url"]).path in ASKED
        if not (asked and message.text.startswith("Failed to load resource: ")):
            complaints.append(message.text)

    def note_stranger(server: Server, request: Request) -> None:
        if not request.url.startswith((server.url, "blob:")):
            complaints.append(f"{request.url} was asked")

    def open_page(server: Server, *, script: str = "", path: str = "", **context: Any) -> Page:
        page = browser.new_context(reduced_motion="reduce", **context).new_page()
        opened.append(page)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", note_line)
        page.on("request", partial(note_stranger, server))
        page.add_init_script(script)
        page.goto(server.url + path)
        return page

    yield open_page
    for page in opened:
        page.context.close()
    assert complaints == []


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with starting(tmp_path_factory) as start:
        yield start(max_body_bytes=2_000_000)


@pytest.fixture(scope="package")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    choices = {"max_queue_size": PLACES, "preprocess_workers": 2 * PLACES}
    with starting(tmp_path_factory) as start:
        yield start(*SLOW_SERVICE, max_batch_size=2, **choices)
