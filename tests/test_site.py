"""The documentation site builds without warnings, and its links and references are complete."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import xcit_client

import training.command
from app.cli.main import build_parser
from app.config.settings import ENV_PREFIX, Settings
from app.serving.errors import ServiceError
from documentation.reference import leaves, subcommands

from .documents import DOCUMENTS, ROOT
from .test_docs import metric_names

pytestmark = pytest.mark.thorough

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}


@dataclass
class Html(HTMLParser):
    """A page: its links, loaded files, anchors, pictures without a description, and words."""

    file: Path
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    undescribed: list[str] = field(default_factory=list)
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        for name, value in values.items():
            if (tag, name) in LOADED:
                self.loaded.append(value)
            elif name == "href":
                self.links.append(value)
        if tag == "img" and not values.get("alt"):
            self.undescribed.append(values["src"])

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site and return its folder."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Html]:
    return {path: Html(path) for path in site.rglob("*.html")}


@pytest.fixture(scope="module")
def reference(site: Path, pages: dict[Path, Html]) -> dict[str, Html]:
    """The pages of the reference, by name."""
    folders = (site / "reference").iterdir()
    return {path.name: pages[path / "index.html"] for path in folders if path.is_dir()}


def targets(site: Path, page: Html) -> Iterator[tuple[str, Path, str]]:
    """Yield each link of a page into the site: the link, its file, its anchor."""
    for link in page.links + page.loaded:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        base = site if parts.path.startswith("/") else page.file.parent
        file = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else page.file
        yield link, file / "index.html" if file.is_dir() else file, unquote(parts.fragment)


def test_every_link_and_anchor_leads_to_an_existing_place(
    site: Path, pages: dict[Path, Html]
) -> None:
    lost = []
    for page in pages.values():
        for link, file, anchor in targets(site, page):
            there = file.exists() and site in file.parents
            if not there or (anchor and file in pages and anchor not in pages[file].anchors):
                lost.append(f"{page.file.relative_to(site)}: {link}")
    assert not lost
    assert sum(len(page.links) for page in pages.values()) > 1000


def test_no_page_loads_from_another_host(site: Path, pages: dict[Path, Html]) -> None:
    loaded = {url for page in pages.values() for url in page.loaded}
    for sheet in site.rglob("*.css"):
        loaded |= set(re.findall(r"(?:@import\s*|url\()[\"']?([^\"')]+)", sheet.read_text()))
    assert {url for url in loaded if not url.startswith(("data:", "#"))}
    assert not {url for url in loaded if urlsplit(url).netloc}


def test_every_picture_has_an_alternative_text(pages: dict[Path, Html]) -> None:
    assert not {url for page in pages.values() for url in page.undescribed}


def test_no_list_item_is_rendered_as_text(pages: dict[Path, Html]) -> None:
    for page in pages.values():
        if "benchmarks" not in page.file.parts:
            assert not re.search(r"^- <(strong|code|a)\b", page.file.read_text(), re.MULTILINE), (
                page
            )


def test_every_page_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"tutorial/", "explanation/xcit/", "reference/settings/", "operations/"} <= found
    assert not {place for place in found if place.startswith("app/")}, "code is not searched"


def test_every_reference_comment_is_replaced(pages: dict[Path, Html], site: Path) -> None:
    for path in site.rglob("*.html"):
        assert "<!-- reference:" not in path.read_text()
    assert pages


def test_the_reference_has_every_setting(reference: dict[str, Html]) -> None:
    page = reference["settings"]
    for name, setting in Settings.model_fields.items():
        variable = f"{ENV_PREFIX}{name.upper()}"
        assert variable.lower() in page.anchors
        default = (
            "" if setting.default is None else json.dumps(setting.default, default=str).strip('"')
        )
        flag = f"--{name.replace('_', '-')}"
        for words in (variable, flag, setting.description or "-", default):
            assert words in page.words, words


def test_the_reference_has_every_metric(reference: dict[str, Html]) -> None:
    assert metric_names() <= reference["metrics"].anchors
    for label in ("endpoint", "reason", "phase", "checkpoint_sha256"):
        assert label in reference["metrics"].words


def test_the_reference_has_every_command_and_argument(reference: dict[str, Html]) -> None:
    words = reference["command-line"].words
    commands = [*subcommands(build_parser()), *subcommands(training.command.build_parser())]
    assert len(commands) >= 10
    for command, _ in commands:
        assert command.prog in words
        for flag in re.findall(r"--[a-z][a-z-]+", command.format_usage()):
            if not command.prog.endswith(" serve"):
                assert flag in words, flag


def test_the_reference_has_every_problem(reference: dict[str, Html]) -> None:
    assert {error.problem for error in leaves(ServiceError)} <= reference["problems"].anchors
    assert "/predict/batch" in reference["problems"].words


def test_the_reference_has_every_name_of_the_client(reference: dict[str, Html]) -> None:
    page = reference["client"]
    assert {name.lower() for name in xcit_client.__all__} <= page.anchors
    assert "image: ImageLike" in page.words


def test_linked_code_has_a_page(site: Path, pages: dict[Path, Html]) -> None:
    page = pages[site / "app" / "serving" / "batcher.py" / "index.html"]
    assert "class MicroBatcher" in page.words


def test_every_picture_is_used_and_drawings_follow_the_colour_scheme() -> None:
    documents = "".join(path.read_text() for path in DOCUMENTS)
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert f"pictures/{picture.name})" in documents, picture
        if picture.suffix == ".svg":
            assert "prefers-color-scheme: dark" in picture.read_text(), picture
