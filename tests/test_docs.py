"""The documents agree with the code."""

import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from app.config.settings import ENV_PREFIX, Settings
from app.http.app import create_app
from app.observability.metrics import Metrics
from app.observability.process_metrics import ProcessesCollector
from app.observability.tracing import FLUSH
from app.serving.timings import PHASES
from tests.app.conftest import FakeClassifier

from .app.conftest import make_settings
from .documents import DOCUMENTS, ROOT, blocks

README = (ROOT / "README.md").read_text()
SERVERS = ("xcit-serve", "litserve", "triton", "bentoml")  # columns of the README
HTTP = (ROOT / "docs" / "reference" / "http.md").read_text()
PROTOCOLS = (ROOT / "docs" / "protocols.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
TRACING = (ROOT / "docs" / "tracing.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def default_of(name: str) -> str:
    default = Settings.model_fields[name].default
    return "" if default is None else str(default)


def test_env_example_lists_every_setting_with_its_default() -> None:
    lines = [
        f"# {field.description}\n# {ENV_PREFIX}{name.upper()}={default_of(name)}"
        for name, field in Settings.model_fields.items()
    ]
    example = (ROOT / ".env.example").read_text()
    assert example.split("\n\n")[1:] == [*lines[:-1], lines[-1] + "\n"]


def test_compose_passes_on_every_setting_except_address_port_and_cloud() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    passed_on = set(re.findall(rf"^      {ENV_PREFIX}(\w+):$", compose, re.MULTILINE))
    assert passed_on == {name.upper() for name in Settings.model_fields} - {"HOST", "PORT", "CLOUD"}


def test_compose_passes_on_every_variable_of_the_tracing_page() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    passed_on = re.findall(r"^      (OTEL_\w+):$", compose, re.MULTILINE)
    assert passed_on == sorted(set(re.findall(r"`(OTEL_[A-Z_]+)", TRACING)))


def test_compose_stop_grace_period_is_longer_than_the_drain() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    grace = re.search(r"stop_grace_period: \S*?(\d+)s", compose)
    assert grace
    drain = float(default_of("drain_delay_s")) + int(default_of("drain_timeout_s"))
    assert int(grace[1]) > drain + FLUSH


def test_the_http_reference_lists_every_route() -> None:
    listed = set(re.findall(r"^\| .*`(?:GET|POST) (/[\w./]*)` \|", HTTP, re.MULTILINE))
    listed |= set(re.findall(r"^\| `(?:GET|POST) (/[\w./]*)`", HTTP, re.MULTILINE))
    app = create_app(make_settings(admin_token="token"), FakeClassifier)
    served = {path for path in app.openapi()["paths"] if not path.startswith("/v2")}
    assert listed == served | {"/", "/openapi.json", "/docs"}


def test_the_readme_quotes_figures_that_were_measured() -> None:
    results = (ROOT / "benchmarks" / "results" / "compare.md").read_text()
    rows = re.findall(r"^\| images/s, (.*?) \| (.*) \|$", README, re.MULTILINE)
    assert len(rows) == 3
    for title, cells in rows:
        heading = title if "dim" in title else f"{title}, bundled"
        section = results.partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
        for server, figure in zip(SERVERS, cells.split(" | "), strict=True):
            measured = re.search(rf"^\| {server} \| ([\d.]+)", section, re.MULTILINE)
            assert measured, (heading, server)
            assert abs(float(measured[1]) - float(figure)) <= 0.6, (heading, server)


def test_the_protocols_page_lists_every_open_inference_route() -> None:
    listed = set(re.findall(r"`(?:GET|POST) (/v2[\w./{}]*)`", PROTOCOLS))
    served = {
        path
        for path in create_app(make_settings(), FakeClassifier).openapi()["paths"]
        if "/v2" in path
    }
    versioned = {path for path in served if "/versions/" in path}
    assert listed == served - versioned
    assert versioned == {
        path.replace("{name}", "{name}/versions/{version}") for path in listed if "{name}" in path
    }


def metric_names() -> set[str]:
    return {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in Metrics(processes=ProcessesCollector(dict)).registry.collect()
        if family.name.startswith("xcit_")
    }


def test_operations_explains_every_metric() -> None:
    listed = set(re.findall(r"^\| `(xcit_\w+)`", OPERATIONS, re.MULTILINE))
    assert listed == metric_names()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_mention_only_settings_that_exist(document: Path) -> None:
    others = {"PUBLISH", "IMAGE", "CLIENT_KEY", "CLIENT_KEY_FILE"}  # of compose and the client
    known = {name.upper() for name in Settings.model_fields} | others
    assert set(re.findall(rf"{ENV_PREFIX}([A-Z_]+)", document.read_text())) <= known


def test_tracing_explains_every_attribute_and_phase() -> None:
    names = r"(?:error|http|network|server|url|user_agent|xcit)\.[\w.]+"
    source = (ROOT / "app" / "observability" / "tracing.py").read_text()
    spans = TRACING.partition("## Spans")[2].partition("## Logs")[0]
    assert set(re.findall(f"`({names})`", spans)) == set(re.findall(f'"({names})"', source))
    assert set(PHASES) <= set(re.findall(r"^\| `(\w+)`", spans, re.MULTILINE))


@pytest.mark.parametrize(
    "name",
    sorted(str(path.relative_to(ROOT)) for path in DOCUMENTS),
)
def test_links_lead_to_files_that_exist(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_architecture_page_names_every_folder_and_only_existing_files() -> None:
    named = set(
        re.findall(
            r"`((?:app|benchmarks|clients|docs|documentation|model|tests|training)[\w/.]*)`",
            ARCHITECTURE,
        )
    )
    for package in ("app", "model"):
        for path in (ROOT / package).glob("*/"):
            if path.is_dir() and any(path.glob("*.py")):
                assert f"{package}/{path.name}" in named, path
    missing = {name for name in named - {"app/http/routes/labels.py"} if not (ROOT / name).exists()}
    assert missing == set()


def test_the_example_route_of_the_architecture_page_works() -> None:
    (example,) = (block for block in blocks("python") if block.title == "app/http/routes/labels.py")
    names: dict[str, Any] = {}
    exec(example.text, names)
    assert [route.path for route in names["router"](None).routes] == ["/labels"]


def test_every_make_target_has_a_help_text() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony
    assert [line.split()[0] for line in listed.splitlines()] == phony[1].split()


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text()
    assert "make test" in README
    assert script.stat().st_mode & stat.S_IXUSR
    assert os.access(script, os.X_OK)


def test_torch_is_pinned() -> None:
    assert re.search(r"^torch==2\.13\.0$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)


def test_the_lock_satisfies_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(
        re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    )
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["fast"], *extras["hub"], *extras["tracing"]]:
        requirement = Requirement(text)
        pin = pins[requirement.name.replace("_", "-")]
        assert requirement.specifier.contains(pin), text


def test_documents_are_in_plain_english() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/plain_english.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.md", "A client\nis\ntold 503.\n\n`it is told`\n\nThere is no limit.\n", [2]),
        ("a.yml", "# The cache, of\n# its own.\nimages: 3\n", [1]),
        (
            "a.py",
            '"""One.\n\n    Beside two."""\nbeside = 1\nraise ValueError("is no file")\n',
            [3, 5],
        ),
    ],
)
def test_the_language_check_finds_patterns_in_prose_only(
    tmp_path: Path, name: str, text: str, lines: list[int]
) -> None:
    (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "scripts/plain_english.py", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [int(line.split(":")[1]) for line in done.stdout.splitlines()]
    assert (done.returncode, found) == (1, lines)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_wraps_at_100_columns(document: Path) -> None:
    blocks = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
    lines = blocks.sub("", document.read_text()).splitlines()
    prose = [line for line in lines if not line.lstrip().startswith(("|", "![", "<"))]
    assert [line for line in prose if len(line) > 100] == []
