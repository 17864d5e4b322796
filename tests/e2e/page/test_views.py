"""The views of the page on a phone, with the keyboard and for an accessibility checker."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Page,
    expect,
)

from tests.server_process import Server

from ..test_contract import picture
from .actions import OpenPage, choose, file_of, live, result

pytestmark = pytest.mark.one_process("about the page")

PHONE: dict[str, Any] = {
    "viewport": {"width": 320, "height": 640},  # pixels, the narrowest width that WCAG requires
    "has_touch": True,
    "is_mobile": True,
}
TOUCHED = "button, .button, select, input:not([type=file]), a"


def reach_every_view(page: Page) -> Iterator[str]:
    """The page in each of its states, one after another."""
    expect(live(page, "State")).to_have_text("ready")
    yield "empty"
    choose(page, picture(), "a-name-" * 12 + ".jpg")
    expect(result(page)).to_contain_text("%")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("img", name="attention is highest")).to_be_visible()
    yield "answer"
    page.route("**/predict", lambda route: route.fulfill(status=401, json={"detail": "whose?"}))
    choose(page, picture())
    expect(page.get_by_label("API key")).to_be_visible()
    yield "key"
    page.route("**/predict", lambda route: route.abort())
    choose(page, picture())
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    yield "complaint"


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
    expect(result(page)).to_have_text(re.compile("attention of the model: head 1 of "))
    expect(page.get_by_role("img", name="the attention is highest: head 1 of")).to_be_visible()


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
