"""The page at ``/`` in a real browser, used by role and name, as a screen reader does."""

import base64
import io
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    FilePayload,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)

from app.http.api_keys import new_key
from app.serving.timings import PHASES
from tests.servers import FixedPage

from .conftest import PATIENCE, SLOW_SERVICE, Server, StartServer
from .test_contract import picture

ASKED = {"/predict", "/explain", "/healthz"}  # these may be refused, or not be there
PHONE: dict[str, Any] = {
    "viewport": {"width": 320, "height": 640},  # pixels, the narrowest width that WCAG requires
    "has_touch": True,
    "is_mobile": True,
}
PLACES = 6  # of the slow server
NOTHING = "–"  # noqa: RUF001
TOUCHED = "button, .button, select, input:not([type=file]), a"

expect.set_options(timeout=30_000)

OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if not path:
        missing = "there is no chromium to open the page in"
        if os.environ.get("CI_REQUIRES_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
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


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    return start_server(max_body_bytes=2_000_000)


@pytest.fixture(scope="module")
def slow_server(start_server: StartServer) -> Server:
    return start_server(
        *SLOW_SERVICE, max_batch_size=2, max_queue_size=PLACES, preprocess_workers=2 * PLACES
    )


def file_of(content: bytes, name: str = "photo.jpg") -> FilePayload:
    return {"name": name, "mimeType": "image/jpeg", "buffer": content}


def choose(page: Page, content: bytes, name: str = "photo.jpg") -> None:
    page.get_by_label("Choose a photo").set_input_files(file_of(content, name))


def take(page: Page, content: bytes, name: str) -> None:
    page.get_by_label("Take a photo").set_input_files(file_of(content, name))


def hand_over(page: Page, event: str, *files: FilePayload) -> None:
    """Dispatch a drop or a paste of files, somewhere on the page."""
    page.get_by_role("heading", level=1).evaluate(
        """(target, [event, files]) => {
            const transfer = new DataTransfer();
            for (const [name, content] of files) {
                const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
            }
            const all = { bubbles: true, cancelable: true };
            const { DragEvent, ClipboardEvent } = window;
            target.dispatchEvent(
                event === "paste"
                    ? new ClipboardEvent(event, { ...all, clipboardData: transfer })
                    : new DragEvent(event, { ...all, dataTransfer: transfer }),
            );
        }""",
        [event, [[file["name"], base64.b64encode(file["buffer"]).decode()] for file in files]],
    )


WAYS: dict[str, Callable[[Page, bytes, str], None]] = {
    "chosen": choose,
    "taken": take,
    "dropped": lambda page, content, name: hand_over(page, "drop", file_of(content, name)),
    "pasted": lambda page, content, name: hand_over(page, "paste", file_of(content, name)),
}


def result(page: Page) -> Locator:
    """The status line: progress, and in the end the result."""
    return page.get_by_role("region", name="Photo").get_by_role("status")


def rows(page: Page, region: str) -> list[tuple[str, float, float]]:
    """Names, numbers and lengths of the bars of a list."""
    found = (
        page.get_by_role("region", name=region)
        .get_by_role("listitem")
        .evaluate_all(
            """(rows) => rows.map((row) => {
            const [name, number, bar] = row.querySelectorAll("span");
            const width = (pseudo) => parseFloat(getComputedStyle(bar, pseudo).width);
            return [name.innerText, parseFloat(number.innerText), width("::before") / width()];
        })"""
        )
    )
    return [(name, number, share) for name, number, share in found]


def live(page: Page, term: str) -> Locator:
    """A value of the service's live state."""
    return page.locator("dl > div").filter(has_text=term).get_by_role("definition")


def complaint(page: Page) -> Locator:
    return page.get_by_role("alert")


@pytest.mark.parametrize("way", WAYS)
def test_page_shows_the_predicted_classes(server: Server, open_page: OpenPage, way: str) -> None:
    data = picture(seed=len(way))
    told = server.post(data).json()["predictions"]
    page = open_page(server, has_touch=True)
    WAYS[way](page, data, f"{way}.jpg")
    expect(result(page)).to_have_text(
        re.compile(rf"^{way}\.jpg, 0\.0 MB: {told[0]['label']}, {100 * told[0]['score']:.1f} %$")
    )
    expect(page.get_by_role("img", name="The chosen photo")).to_be_visible()
    shown = rows(page, "Most likely")
    assert [name for name, _, _ in shown] == [row["label"] for row in told]
    for (_, number, share), row in zip(shown, told, strict=True):
        assert number == pytest.approx(100 * row["score"], abs=0.11)
        assert share == pytest.approx(row["score"], abs=0.01)


def test_the_time_of_each_phase_is_shown(server: Server, open_page: OpenPage) -> None:
    page = open_page(server)
    with page.expect_response("**/predict") as answer:
        choose(page, picture())
    timings = dict(
        entry.split(";dur=")
        for entry in str(answer.value.header_value("server-timing")).split(", ")
    )
    expect(result(page)).to_contain_text("%")
    shown = rows(page, "Where the time went")
    assert [name for name, _, _ in shown] == [*PHASES, "total"]
    for name, number, share in shown:
        assert number == pytest.approx(float(timings[name]), abs=0.051)
        assert share == pytest.approx(float(timings[name]) / float(timings["total"]), abs=0.01)


def test_page_works_with_the_keyboard_alone(server: Server, open_page: OpenPage) -> None:
    page = open_page(server)
    page.on("filechooser", lambda chooser: chooser.set_files(file_of(picture())))
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose a photo")).to_be_focused()
    assert page.locator(".button").first.evaluate("(b) => getComputedStyle(b).outlineStyle") != (
        "none"
    )
    page.keyboard.press("Enter")
    expect(result(page)).to_contain_text("%")
    expect(page.get_by_role("option", name="head 1 of")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.get_by_label("Attention")).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    with page.expect_request("**/explain?head=0"):
        page.keyboard.press("Enter")
    expect(result(page)).to_have_text(re.compile("where the model looked: head 1 of "))
    expect(page.get_by_role("img", name="looked most: head 1 of")).to_be_visible()


def test_page_shows_the_explanation_of_the_service(server: Server, open_page: OpenPage) -> None:
    data = picture()
    heads = server.client.get("/healthz").json()["model"]["heads"]
    page = open_page(server)
    choose(page, data)
    expect(result(page)).to_contain_text("%")
    expect(page.get_by_role("option")).to_have_count(heads + 1)
    page.get_by_role("button", name="Show").click()
    picked = page.get_by_role("img", name="looked most: mean of all heads")
    expect(picked).to_be_visible()
    shown = picked.evaluate(
        """(image) => {
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL("image/png").split(",")[1];
        }"""
    )
    told = server.client.post("/explain", content=data).content
    assert pixels(base64.b64decode(shown)) == pixels(told)


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


REFUSED = {
    "text": (b"Dear diary", "This is no photo that the service can read: "),
    "empty": (b"", "This photo cannot be read: "),
    "truncated": (picture()[:2000], "This photo cannot be read: "),
    "huge": (
        bytes(4_000_000),
        "This photo is too large: the body is 4.0 MB; at most 2.0 MB are accepted.",
    ),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_page_shows_a_refusal_and_nothing_else(
    server: Server, open_page: OpenPage, content: bytes, message: str
) -> None:
    page = open_page(server)
    choose(page, picture())
    expect(result(page)).to_contain_text("%")
    choose(page, content, "other.jpg")
    expect(complaint(page)).to_contain_text(message)
    expect(result(page)).to_be_empty()
    expect(page.get_by_role("listitem")).to_have_count(0)
    expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    choose(page, picture())
    expect(result(page)).to_contain_text("%")
    expect(complaint(page)).to_be_empty()


@pytest.mark.parametrize("count", [0, 2])
def test_dropping_other_than_one_photo_is_refused(
    server: Server, open_page: OpenPage, count: int
) -> None:
    page = open_page(server)
    hand_over(page, "drop", *[file_of(picture())] * count)
    expect(complaint(page)).to_contain_text(f"One photo at a time, please; there were {count}")


def test_pasted_text_is_ignored(server: Server, open_page: OpenPage) -> None:
    page = open_page(server)
    hand_over(page, "paste")
    expect(result(page)).to_be_empty()
    expect(complaint(page)).to_be_empty()


def test_deleted_photo_is_reported(server: Server, open_page: OpenPage, tmp_path: Path) -> None:
    path = tmp_path / "fleeting.jpg"
    path.write_bytes(picture())
    page = open_page(server)
    page.get_by_label("Choose a photo").set_input_files(path)
    expect(result(page)).to_contain_text("%")
    path.unlink()
    page.get_by_role("button", name="Show").click()
    expect(complaint(page)).to_contain_text("fleeting.jpg cannot be read; is it a file, and still")


def number(server: Server, metric: str) -> float:
    """The current value of a metric with its labels."""
    lines = dict(line.rsplit(" ", 1) for line in server.client.get("/metrics").text.splitlines())
    return float(lines[metric])


def until(server: Server, metric: str, value: float) -> None:
    limit = time.monotonic() + PATIENCE
    while number(server, metric) != value:
        assert time.monotonic() < limit, f"{metric} is not {value}"
        time.sleep(0.05)


def test_new_photo_cancels_the_previous_request(slow_server: Server, open_page: OpenPage) -> None:
    gone = 'xcit_rejected_total{reason="disconnected"}'
    before = number(slow_server, gone)
    page = open_page(slow_server)
    choose(page, b"nap 9", "slow.jpg")
    expect(result(page)).to_have_text("Looking at slow.jpg …")
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
            re.compile(r"cannot take the photo now \(overloaded\)\. Try again in \d+ s\.$")
        )
    until(slow_server, "xcit_inflight_requests", 0)
    page.get_by_role("button", name="Try again").click()
    expect(result(page)).to_contain_text("100.0 %")
    expect(complaint(page)).to_be_empty()


@contextmanager
def under_load(server: Server, callers: int, body: bytes) -> Iterator[None]:
    """Run callers that send one request after another."""
    enough = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url) as client:
            while not enough.is_set():
                client.post("/predict", content=body)

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def test_the_live_state_follows_the_load(slow_server: Server, open_page: OpenPage) -> None:
    page = open_page(slow_server)
    expect(live(page, "State")).to_have_text("ready")
    expect(live(page, "Images a second")).to_have_text("0.0")
    expect(live(page, "Images a batch")).to_have_text(NOTHING)
    expect(live(page, "Waiting for a batch")).to_have_text("0")
    with under_load(slow_server, callers=PLACES, body=b"0.1"):
        expect(live(page, "Waiting for a batch")).to_have_text(re.compile("^[1-4]$"))
        expect(live(page, "Images a batch")).to_have_text(re.compile(r"^(1\.[5-9]|2\.0)$"))
        expect(live(page, "Images a second")).to_have_text(re.compile(r"^[1-9]\d*\.\d$"))
    expect(live(page, "Waiting for a batch")).to_have_text("0")


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
    expect(live(page, "Images a second")).to_have_text("0.0")
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
    expect(live(page, "Waiting for a batch")).to_have_text(NOTHING)
    start_server(*SLOW_SERVICE, port=server.port)
    expect(live(page, "State")).to_have_text("ready")
    page.get_by_role("button", name="Try again").click()
    expect(result(page)).to_contain_text("100.0 %")


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
    expect(complaint(page)).to_contain_text("The service needs an API key: a key is needed")
    expect(field).to_be_focused()
    page.keyboard.type("guess")
    page.keyboard.press("Enter")
    expect(complaint(page)).to_contain_text("the key is unknown")
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


def reach_every_view(page: Page) -> Iterator[str]:
    """The page in each of its states, one after another."""
    expect(live(page, "State")).to_have_text("ready")
    yield "empty"
    choose(page, picture(), "a-name-" * 12 + ".jpg")
    expect(result(page)).to_contain_text("%")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("img", name="looked most")).to_be_visible()
    yield "answer"
    page.route("**/predict", lambda route: route.fulfill(status=401, json={"detail": "whose?"}))
    choose(page, picture())
    expect(page.get_by_label("API key")).to_be_visible()
    yield "key"
    page.route("**/predict", lambda route: route.abort())
    choose(page, picture())
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    yield "complaint"


def test_page_fits_a_phone_with_large_touch_targets(server: Server, open_page: OpenPage) -> None:
    page = open_page(server, **PHONE)
    assert page.get_by_label("Take a photo").get_attribute("capture") == "environment"
    for view in reach_every_view(page):
        assert page.evaluate("document.documentElement.scrollWidth") == 320, view
        expect(page.get_by_text("Take a photo")).to_be_visible()
        for target in page.locator(TOUCHED).filter(visible=True).all():
            box = target.bounding_box()
            assert box
            name = target.inner_text()
            assert box["height"] >= 44, (view, name)
            assert box["x"] >= 0, (view, name)
            assert box["x"] + box["width"] <= 320, (view, name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_accessibility_checker_finds_nothing(
    server: Server, open_page: OpenPage, scheme: str
) -> None:
    page = open_page(server, color_scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    for view in reach_every_view(page):
        found = Axe().run(page).response
        assert len(found["passes"]) > 20
        faults = [
            (rule["id"], node["html"])
            for rule in (*found["violations"], *found["incomplete"])
            for node in rule["nodes"]
        ]
        assert not faults, view


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
