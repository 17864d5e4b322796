"""What a user does on the page and sees there, by role and name, as a screen reader does."""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from playwright.sync_api import (
    FilePayload,
    Locator,
    Page,
)

from tests.server_process import PATIENCE, Server

NOTHING = "–"  # noqa: RUF001
PLACES = 6  # of the slow server
OpenPage = Callable[..., Page]


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


def number(server: Server, metric: str) -> float:
    """The current value of a metric with its labels."""
    lines = dict(line.rsplit(" ", 1) for line in server.client.get("/metrics").text.splitlines())
    return float(lines[metric])


def until(server: Server, metric: str, value: float) -> None:
    limit = time.monotonic() + PATIENCE
    while number(server, metric) != value:
        assert time.monotonic() < limit, f"{metric} is not {value}"
        time.sleep(0.05)


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
