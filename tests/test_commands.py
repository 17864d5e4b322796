"""The commands in the documents exist, with their arguments, and other code blocks are valid."""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import yaml

import training.command
from app.cli.main import build_parser
from app.config.settings import ENV_PREFIX, Settings

from .documents import DOCUMENTS, ROOT, TUTORIAL, Block, blocks, read_blocks

LANGUAGES = {"", "console", "json", "promql", "python", "text", "yaml"}
COMMANDS = [(block, line) for block in blocks("console") for line in block.commands()]


def check_xcit_serve(words: list[str]) -> None:
    if words[:1] == ["train"]:
        training.command.build_parser().parse_args(["run", *words[1:]])
    else:
        build_parser().parse_args(words)


def check_python(words: list[str]) -> None:
    if words[0] != "-m":
        assert words[0] in {block.title for block in blocks("python")}
    elif words[1] == "training":
        training.command.build_parser().parse_args(words[2:])
    else:
        assert find_spec(words[1])


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words if "=" not in word} <= targets


def test_documents_install_pinned_packages_and_torch_from_the_given_index() -> None:
    """Large downloads show their progress."""
    index = "https://download.pytorch.org/whl/cpu"
    (torch,) = re.findall("^torch==.*$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    for document in (TUTORIAL, ROOT / "README.md"):
        first = next(line for block in blocks("console", document) for line in block.commands())
        words = shlex.split(first)
        assert words[0] == "make"
        assert f"TORCH_INDEX={index}" in words
        printed = subprocess.run(
            [*words, "--dry-run", "--always-make"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        large = [line for line in printed.splitlines() if torch in line or "requirements" in line]
        assert any(f"--index-url {index} {torch}" in line for line in large)
        assert any("--requirement requirements.txt" in line for line in large)
        assert not any("--quiet" in line for line in large)


def check_docker(words: list[str]) -> None:
    if words[0] != "compose":
        assert words[0] in {"build", "run"}
        return
    rest = iter(words[1:])
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = compose["services"]
    known = {"up", "stop", "start", "restart", "kill", *services}
    for word in rest:
        if word == "-f":
            assert (ROOT / next(rest)).exists()
        elif word == "--profile":
            assert next(rest) in {
                name for each in services.values() for name in each.get("profiles", [])
            }
        elif word in {"--project-name", "--signal"}:
            next(rest)
        else:
            assert word in known | {"--build", "--detach"}


def check_kubectl(words: list[str]) -> None:
    if "--kustomize" in words:
        directory = ROOT / words[words.index("--kustomize") + 1]
        assert (directory / "kustomization.yml").exists() or directory.name == "mine"
    named = (
        yaml.safe_load(path.read_text())
        for path in (ROOT / "deploy/kubernetes/base").iterdir()
        if path.name != "kustomization.yml"
    )
    names = {f"{part['kind'].lower()}/{part['metadata']['name']}" for part in named}
    assert {word for word in words if "/xcit" in word} <= names


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    for word in words[1:]:
        target, _, extras = word.rstrip("]").partition("[")
        directory = ROOT if target == "xcit-serve" else ROOT / target
        project = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
        assert {*filter(None, extras.split(","))} <= set(project["optional-dependencies"])


def check_curl(words: list[str]) -> None:
    """Requests to the service are run in `tests.e2e.test_documents`."""
    (url,) = (word for word in words if word.startswith("localhost:"))
    assert re.match(r"localhost:(8000|8080|9090)/", url)


def check_gpu_script(words: list[str]) -> None:
    """The script takes one output folder."""
    assert [word for word in words if word != "--rehearse"] == ["results"]


def check_pytest(words: list[str]) -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    markers = {marker.partition(":")[0] for marker in config["markers"]}
    assert words[0] == "-m"
    assert set(words[1].split()) - {"and", "not", "or"} <= markers


def check_serve(words: list[str]) -> None:
    """Ray Serve's command; `tests.ray.test_manifests` validates the file."""
    assert words[0] == "deploy"
    assert (ROOT / words[1]).exists()


def check_nothing(words: list[str]) -> None:
    """Commands of the tutorial are run in `tests.e2e.test_tutorial`."""


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "xcit-serve": check_xcit_serve,
    "python": check_python,
    "python3": check_python,
    "make": check_make,
    "docker": check_docker,
    "kubectl": check_kubectl,
    "pip": check_pip,
    "pytest": check_pytest,
    "serve": check_serve,
    "curl": check_curl,
    "echo": check_curl,  # into curl
    "benchmarks/gpu.sh": check_gpu_script,
    "export": check_nothing,
    "kill": check_nothing,
    "mkdir": check_nothing,
    "mv": check_nothing,
    "ray": check_nothing,
    "source": check_nothing,
}


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=str)
def test_every_command_is_valid(block: Block, line: str) -> None:
    words = shlex.split(line, comments=True)
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    while re.match(r"[A-Z_]+=", words[0]):
        name = words.pop(0).partition("=")[0]
        assert not name.startswith(ENV_PREFIX) or name in known | {"XCIT_PUBLISH"}
    CHECKS[words[0]](words[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_has_a_language_that_is_checked(document: Any) -> None:
    found = [*read_blocks(document)]
    assert {block.language for block in found} <= LANGUAGES
    assert document.read_text().count("```") == 2 * len(found)


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_blocks_are_valid(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_blocks_are_valid(block: Block) -> None:
    content = yaml.safe_load(block.text)
    if (block.title or "").startswith("docker-compose"):
        compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
        assert set(content["services"]) <= set(compose["services"])
