"""The documentation site: it builds without a warning, and all that it shows leads somewhere."""

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
from app.http.app import create_app
from app.serving.errors import ServiceError
from documentation.pictures import FOLDER, pictures
from documentation.reference import leaves, subcommands
from tests.app.conftest import FakeClassifier

from .app.conftest import make_settings
from .documents import ROOT
from .test_docs import metric_names

pytestmark = pytest.mark.thorough

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}


@dataclass
class Html(HTMLParser):
    """A page: where it leads, what it loads, what can be led to, and its words."""

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
    """The site as built."""
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
    """The generated pages, by name."""
    folders = (site / "reference").iterdir()
    return {path.name: pages[path / "index.html"] for path in folders if path.is_dir()}


def targets(site: Path, page: Html) -> Iterator[tuple[str, Path, str]]:
    """Links of a page into the site: as written, the file, the anchor."""
    for link in page.links + page.loaded:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        base = site if parts.path.startswith("/") else page.file.parent
        file = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else page.file
        yield link, file / "index.html" if file.is_dir() else file, unquote(parts.fragment)


def test_every_link_and_anchor_leads_somewhere(site: Path, pages: dict[Path, Html]) -> None:
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


def test_every_picture_is_described(pages: dict[Path, Html]) -> None:
    assert not {url for page in pages.values() for url in page.undescribed}


def test_every_page_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"tutorial/", "explanation/xcit/", "reference/settings/", "operations/"} <= found
    assert not {place for place in found if place.startswith("app/")}, "code is not text"


def test_no_mark_is_left_without_its_reference(pages: dict[Path, Html], site: Path) -> None:
    for path in site.rglob("*.html"):
        assert "<!-- reference:" not in path.read_text()
    assert pages


def test_the_reference_has_every_setting(reference: dict[str, Html]) -> None:
    page = reference["settings"]
    for name, setting in Settings.model_fields.items():
        variable = f"{ENV_PREFIX}{name.upper()}"
        assert variable.lower() in page.anchors
        for words in (variable, f"--{name.replace('_', '-')}", setting.description or "-"):
            assert words in page.words, words


def test_the_reference_has_every_metric(reference: dict[str, Html]) -> None:
    assert metric_names() <= reference["metrics"].anchors
    for label in ("endpoint", "reason", "phase", "checkpoint_sha256"):
        assert label in reference["metrics"].words


def test_the_reference_has_every_route_and_schema(reference: dict[str, Html]) -> None:
    page = reference["http"]
    openapi = create_app(make_settings(admin_token="token"), FakeClassifier).openapi()
    for path, methods in openapi["paths"].items():
        for method in methods:
            assert re.search(rf"{method.upper()} {re.escape(path)}(?!/)", page.words), path
    assert {name.lower() for name in openapi["components"]["schemas"]} <= page.anchors
    assert {"imagetopredict", "inferrequest", "requestinput"} <= page.anchors, "of requests, too"
    assert '"xcit-cifar10"' in page.words, "an answer of the bundled model"


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


def test_code_that_is_linked_to_is_shown(site: Path, pages: dict[Path, Html]) -> None:
    page = pages[site / "app" / "serving" / "batcher.py" / "index.html"]
    assert "class MicroBatcher" in page.words


@pytest.mark.parametrize("name", sorted(pictures()))
def test_pictures_show_what_the_code_does(name: str) -> None:
    drawn = (FOLDER / f"{name}.svg").read_text()
    assert drawn == pictures()[name], "python -m documentation.pictures"
    assert "prefers-color-scheme: dark" in drawn


def test_no_picture_is_left_over() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(pictures())
