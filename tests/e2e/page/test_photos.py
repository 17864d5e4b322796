"""Photos given to the page, and the answers that it shows."""

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import (
    expect,
)

from app.serving.timings import PHASES
from tests.hostile import encode
from tests.hostile import picture as hostile_picture
from tests.server_process import Server

from ..test_contract import picture
from .actions import (
    WAYS,
    OpenPage,
    choose,
    complaint,
    file_of,
    hand_over,
    result,
    rows,
)

pytestmark = pytest.mark.one_process("about the page")


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


@pytest.mark.parametrize(("image_format", "shown"), [("AVIF", True), ("HEIF", False)])
def test_page_says_that_the_browser_cannot_show_a_format(
    server: Server, open_page: OpenPage, image_format: str, shown: bool
) -> None:
    page = open_page(server)
    hint = page.get_by_text("This browser cannot show photos of this format.")
    photo = page.get_by_role("img", name="The chosen photo")
    choose(page, encode(hostile_picture(), image_format), f"a.{image_format.lower()}")
    expect(result(page)).to_contain_text("%")
    expect(photo if shown else hint).to_be_visible()
    expect(hint if shown else photo).to_be_hidden()
    choose(page, picture())
    expect(photo).to_be_visible()
    expect(hint).to_be_hidden()


def test_the_time_of_each_phase_is_shown(server: Server, open_page: OpenPage) -> None:
    page = open_page(server)
    with page.expect_response("**/predict") as answer:
        choose(page, picture())
    timings = dict(
        entry.split(";dur=")
        for entry in str(answer.value.header_value("server-timing")).split(", ")
    )
    expect(result(page)).to_contain_text("%")
    shown = rows(page, "Time by phase")
    assert [name for name, _, _ in shown] == [*PHASES, "total"]
    for name, number, share in shown:
        assert number == pytest.approx(float(timings[name]), abs=0.051)
        assert share == pytest.approx(float(timings[name]) / float(timings["total"]), abs=0.01)


def test_page_shows_the_explanation_of_the_service(server: Server, open_page: OpenPage) -> None:
    data = picture()
    heads = server.client.get("/healthz").json()["model"]["heads"]
    page = open_page(server)
    choose(page, data)
    expect(result(page)).to_contain_text("%")
    expect(page.get_by_role("option")).to_have_count(heads + 1)
    page.get_by_role("button", name="Show").click()
    picked = page.get_by_role("img", name="the attention is highest: mean of all heads")
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
    "text": (b"Dear diary", "This is not a supported image format: "),
    "empty": (b"", "This photo cannot be read: "),
    "truncated": (picture()[:2000], "This photo cannot be read: "),
    "huge": (
        bytes(4_000_000),
        "This photo is too large: the body is 4.0 MB; the maximum is 2.0 MB.",
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
    expect(complaint(page)).to_contain_text(f"Choose one photo at a time; you chose {count}")


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
    expect(complaint(page)).to_contain_text("fleeting.jpg cannot be read; it may be a folder")
