"""Imports between modules: folders in order, no cycles, no libraries of the other side."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parent.parent

# Folders and modules from the top down: each imports only from those below it.
ORDER = {
    "app": [
        "app.__main__",
        "app.cli",
        "app.ray",
        "app.scoring",
        "app.processes",
        "app.loading",
        "app.preparation",
        "app.server",
        "app.http",
        "app.observability",
        "app.serving",
        "app.config",
    ],
    "model": [
        "model.quantisation",
        "model.evaluation",
        "model.inference",
        "model.backends",
        "model.checkpoint",
        "model.sources",
        "model.metadata",
        "model.weights",
        "model.families",
        "model.images",
        "model.spec",
        "model.drift",
        "model.scores",
        "model.files",
        "model.errors",
    ],
    "training": ["training"],
    "xcit_client": ["xcit_client"],
    "benchmarks.load": ["benchmarks.load"],
}
WEB = {"fastapi", "starlette", "uvicorn", "opentelemetry"}
MEETING_PLACES = {"app.loading", "app.preparation"}
HELPERS = {"model.files", "model.images.formats"}  # know nothing of models, for any module
FORBIDDEN = {
    "xcit_client": {"app", "benchmarks", "model", "torch", "fastapi", "pydantic", "uvicorn"},
    "benchmarks.load": {"app", "model", "torch", "fastapi", "pydantic", "uvicorn"},
    "app": {"torch", "einops", "PIL", "openvino", "safetensors", "numpy"},
    "model": {"app", "training", "fastapi", "starlette", "uvicorn", "pydantic"},
    "training": {"app", "fastapi", "starlette", "uvicorn", "pydantic"},
}


@cache
def modules(package: str) -> dict[str, Path]:
    found = {}
    root = ROOT / "clients" / "python" if package == "xcit_client" else ROOT
    for path in sorted((root / package.replace(".", "/")).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for package in FORBIDDEN for name in modules(package)}
            names |= (inside & known) or {node.module}
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_each_side_imports_only_its_libraries(package: str) -> None:
    for module, path in modules(package).items():
        roots = {name.partition(".")[0] for name in imports(path)}
        assert not roots & FORBIDDEN[package], module


def test_only_three_places_import_the_model() -> None:
    for module, path in modules("app").items():
        names = imports(path) - HELPERS
        if any(name.partition(".")[0] in {"model", "training"} for name in names):
            assert module in MEETING_PLACES or module.startswith("app.cli."), module


def place(module: str, order: list[str]) -> int:
    """The index of the entry that a module belongs to."""
    places = [i for i, name in enumerate(order) if f"{module}.".startswith(f"{name}.")]
    assert places, f"{module} has no place in ORDER"
    return places[0]


@pytest.mark.parametrize("package", ORDER)
def test_folders_import_only_from_those_below(package: str) -> None:
    order, files = ORDER[package], written(package)
    for module, path in files.items():
        for name in imports(path) & set(files):
            assert place(name, order) >= place(module, order), f"{module} imports {name}"


@pytest.mark.parametrize("package", ORDER)
def test_modules_do_not_import_each_other_in_circles(package: str) -> None:
    files = written(package)
    graph = {module: imports(path) & set(files) - {module} for module, path in files.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def written(package: str) -> dict[str, Path]:
    """The modules of a package, except empty ``__init__`` modules."""
    return {
        module: path
        for module, path in modules(package).items()
        if len(ast.parse(path.read_text()).body) > 1
    }


def test_only_serve_imports_the_web_framework() -> None:
    """FastAPI is slow to import, and so is OpenTelemetry, which also fails on some environments."""
    commands = "app.cli.main, app.cli.remote, app.cli.load_test, app.loading"
    script = f"import sys, {commands}; print({WEB} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("set()\n", "")


def test_only_the_commands_that_ask_a_server_know_the_client() -> None:
    asking = {
        module
        for module, path in modules("app").items()
        if any(name.partition(".")[0] == "xcit_client" for name in imports(path))
    }
    assert asking == {"app.cli.load_test", "app.cli.remote"}


def run_without(packages: list[str], modules: str) -> None:
    """Import modules in a process that cannot import some packages."""
    program = f"import sys; sys.modules.update(dict.fromkeys({packages})); import {modules}"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)


def test_service_side_needs_no_torch() -> None:
    run_without(["torch", "PIL", "numpy", "einops"], "app.server.server, app.cli.main")


def test_images_are_decoded_and_preprocessed_without_torch() -> None:
    run_without(["torch", "einops", "safetensors"], "app.preparation, model.images.preprocess")


def test_the_client_depends_on_httpx_alone() -> None:
    project = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]
    assert [name.partition(">")[0] for name in project["dependencies"]] == ["httpx"]
    others = ["torch", "PIL", "numpy", "tqdm", "fastapi", "pydantic", "matplotlib"]
    run_without(others, "xcit_client")


def test_peers_of_the_comparison_need_nothing_that_their_environments_lack() -> None:
    peers = ROOT / "benchmarks" / "compare" / "peers"
    needed = {"benchmarks.ports", "benchmarks.compare.peers"}
    for path in peers.glob("*.py"):
        ours = {name for name in imports(path) if name.startswith(("benchmarks", "client", "app"))}
        assert {name for name in ours if not name.startswith(tuple(needed))} == set(), path
    assert not {name for name in imports(ROOT / "benchmarks" / "ports.py") if name != "socket"}
