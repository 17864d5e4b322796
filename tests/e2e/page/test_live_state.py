"""The page while the service is slow, full, loaded or gone."""

import re
import socket
from contextlib import ExitStack

from playwright.sync_api import (
    Request,
    expect,
)

from tests.server_process import Server

from ..conftest import SLOW_SERVICE, StartServer
from .actions import (
    NOTHING,
    PLACES,
    OpenPage,
    choose,
    complaint,
    live,
    number,
    result,
    under_load,
    until,
)


def test_new_photo_cancels_the_previous_request(slow_server: Server, open_page: OpenPage) -> None:
    gone = 'xcit_rejected_total{reason="disconnected"}'
    before = number(slow_server, gone)
    page = open_page(slow_server)
    choose(page, b"nap 9", "slow.jpg")
    expect(result(page)).to_have_text("Classifying slow.jpg …")
    until(slow_server, "xcit_inflight_requests", 1)
    choose(page, b"0.1", "fast.jpg")
    expect(result(page)).to_contain_text("fast.jpg, 0.0 MB: 0.1, ")
    expect(complaint(page)).to_be_empty()
    until(slow_server, gone, before + 1)


def test_page_offers_a_retry_when_the_service_is_full(
    slow_server: Server, open_page: OpenPage
) -> None:
    page = open_page(slow_server)
    with ExitStack() as callers:
        for _ in range(PLACES):
            connection = callers.enter_context(
                socket.create_connection(("127.0.0.1", slow_server.port))
            )
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nnap 9"
            )
        until(slow_server, "xcit_inflight_requests", PLACES)
        choose(page, b"0")
        expect(complaint(page)).to_have_text(
            re.compile(r"cannot classify the photo now \(overloaded\)\. Try again in \d+ s\.$")
        )
    until(slow_server, "xcit_inflight_requests", 0)
    page.get_by_role("button", name="Try again").click()
    expect(result(page)).to_contain_text("100.0 %")
    expect(complaint(page)).to_be_empty()


def test_the_live_state_follows_the_load(slow_server: Server, open_page: OpenPage) -> None:
    page = open_page(slow_server)
    expect(live(page, "State")).to_have_text("ready")
    expect(live(page, "Images per second")).to_have_text("0.0")
    expect(live(page, "Images per batch")).to_have_text(NOTHING)
    expect(live(page, "Images in the queue")).to_have_text("0")
    with under_load(slow_server, callers=PLACES, body=b"0.1"):
        expect(live(page, "Images in the queue")).to_have_text(re.compile("^[1-4]$"))
        expect(live(page, "Images per batch")).to_have_text(re.compile(r"^(1\.[5-9]|2\.0)$"))
        expect(live(page, "Images per second")).to_have_text(re.compile(r"^[1-9]\d*\.\d$"))
    expect(live(page, "Images in the queue")).to_have_text("0")


def test_hidden_page_sends_no_requests(slow_server: Server, open_page: OpenPage) -> None:
    looks: list[str] = []

    def note_look(request: Request) -> None:
        if request.url.endswith("/healthz"):
            looks.append(request.url)

    page = open_page(
        slow_server,
        script="""
            Object.defineProperty(document, "visibilityState", {
                get: () => (window.seen ? "visible" : "hidden"),
            });
        """,
    )
    page.on("request", note_look)
    page.wait_for_timeout(1500)
    assert looks == []
    page.evaluate("window.seen = true; document.dispatchEvent(new Event('visibilitychange'))")
    expect(live(page, "Images per second")).to_have_text("0.0")
    assert len(looks) >= 2


def test_page_shows_an_unreachable_service_until_it_returns(
    start_server: StartServer, open_page: OpenPage
) -> None:
    server = start_server(*SLOW_SERVICE)
    page = open_page(server)
    expect(live(page, "State")).to_have_text("ready")
    server.stop()
    choose(page, b"0")
    expect(complaint(page)).to_have_text("The service cannot be reached.")
    expect(live(page, "State")).to_have_text("not reachable")
    expect(live(page, "Images in the queue")).to_have_text(NOTHING)
    start_server(*SLOW_SERVICE, port=server.port)
    expect(live(page, "State")).to_have_text("ready")
    page.get_by_role("button", name="Try again").click()
    expect(result(page)).to_contain_text("100.0 %")
