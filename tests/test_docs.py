"""What the documents say is what the code does."""

import os
import re
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from app.config.settings import ENV_PREFIX, Settings
from app.http.app import create_app
from app.observability.metrics import Metrics
from app.observability.tracing import FLUSH
from app.serving.errors import ServiceError
from app.serving.timings import PHASES
from documentation.reference import leaves
from tests.app.conftest import FakeClassifier

from .app.conftest import make_settings
from .documents import DOCUMENTS, ROOT

README = (ROOT / "README.md").read_text()
PROTOCOLS = (ROOT / "docs" / "protocols.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
TRACING = (ROOT / "docs" / "tracing.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def default_of(name: str) -> str:
    default = Settings.model_fields[name].default
    return "" if default is None else str(default)


def test_the_readme_lists_every_setting_with_default_and_meaning() -> None:
    rows = {
        f"| `{ENV_PREFIX}{name.upper()}` | {default_of(name)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    }
    told = {line for line in README.splitlines() if line.startswith(f"| `{ENV_PREFIX}")}
    assert told == rows


def test_the_example_environment_lists_every_setting() -> None:
    lines = [
        f"# {field.description}\n# {ENV_PREFIX}{name.upper()}={default_of(name)}"
        for name, field in Settings.model_fields.items()
    ]
    example = (ROOT / ".env.example").read_text()
    assert example.split("\n\n")[1:] == [*lines[:-1], lines[-1] + "\n"]


def test_compose_hands_on_every_setting_but_address_port_and_cloud() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    handed_on = set(re.findall(rf"^      {ENV_PREFIX}(\w+):$", compose, re.MULTILINE))
    assert handed_on == {name.upper() for name in Settings.model_fields} - {"HOST", "PORT", "CLOUD"}


def test_compose_passes_on_every_variable_that_the_page_on_tracing_names() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    passed_on = re.findall(r"^      (OTEL_\w+):$", compose, re.MULTILINE)
    assert passed_on == sorted(set(re.findall(r"`(OTEL_[A-Z_]+)", TRACING)))


def test_compose_is_more_patient_than_the_drain() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    grace = re.search(r"stop_grace_period: \S*?(\d+)s", compose)
    assert grace
    drain = float(default_of("drain_delay_s")) + int(default_of("drain_timeout_s"))
    assert int(grace[1]) > drain + FLUSH


def test_the_readme_lists_every_route() -> None:
    told = set(re.findall(r"`(?:GET|POST) (/[\w./]*)`", README))
    app = create_app(make_settings(), FakeClassifier)
    served = {path for path in app.openapi()["paths"] if not path.startswith("/v2")}
    assert told == served | {"/", "/openapi.json", "/docs"}


def test_the_protocols_list_every_route_of_the_open_inference_protocol() -> None:
    told = set(re.findall(r"`(?:GET|POST) (/v2[\w./{}]*)`", PROTOCOLS))
    served = {
        path
        for path in create_app(make_settings(), FakeClassifier).openapi()["paths"]
        if "/v2" in path
    }
    versioned = {path for path in served if "/versions/" in path}
    assert told == served - versioned
    assert versioned == {
        path.replace("{name}", "{name}/versions/{version}") for path in told if "{name}" in path
    }


def test_the_readme_lists_every_problem() -> None:
    told = set(re.findall(r"`/problems/([\w-]+)`", README))
    known = {error.problem for error in leaves(ServiceError)}
    assert told == known - {"disconnected"}  # nobody is there to read that one


def metric_names() -> set[str]:
    return {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in Metrics().registry.collect()
        if family.name.startswith("xcit_")
    }


def test_operations_explain_every_metric() -> None:
    told = set(re.findall(r"^\| `(xcit_\w+)`", OPERATIONS, re.MULTILINE))
    assert told == metric_names()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_no_setting_that_is_not_there(document: Path) -> None:
    others = {
        "PUBLISH",
        "IMAGE",
        "CLIENT_KEY",
        "CLIENT_KEY_FILE",
    }  # compose's own, and the client's
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
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_the_architecture_names_every_folder_and_only_files_that_exist() -> None:
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


def test_every_make_target_is_explained() -> None:
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


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text()
    assert "make test" in README
    assert script.stat().st_mode & stat.S_IXUSR
    assert os.access(script, os.X_OK)


def test_torch_is_pinned_as_locked() -> None:
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
