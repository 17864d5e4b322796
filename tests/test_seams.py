"""Who may import whom. The house stands as long as this holds."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

APP_LAYERS = [
    {"app.__main__"},
    {"app.cli"},
    {"app.bench"},
    {"app.offline", "app.remote", "app.server"},
    {"app.main", "app.protocol"},
    {"app.model_settings"},
    {"app.api.cloud", "app.api.explain"},
    {
        "app.api.admin",
        "app.api.health",
        "app.api.metrics",
        "app.api.middleware",
        "app.api.oip",
        "app.api.page",
        "app.api.predict",
    },
    {"app.api.door", "app.api.oip_tensors"},
    {"app.api.answers", "app.api.body", "app.api.inflation", "app.api.oip_outputs"},
    {"app.api.forms", "app.api.oip_schemas"},
    {"app.api.base64_text"},
    {
        "app.api.callers",
        "app.api.errors",
        "app.api.headers",
        "app.api.hosts",
        "app.api.oip_statistics",
        "app.api.origins",
        "app.api.parameters",
        "app.api.waiting",
    },
    {"app.api.schemas", "app.pipeline", "app.tracing"},
    {"app.api.json_text"},
    {"app.api.number_text"},
    {"app.engines"},
    {"app.engine"},
    {"app.admission", "app.batcher", "app.metrics", "app.logs", "app.worker_pool"},
    {"app.chunks", "app.connection_limit", "app.held_bytes", "app.lingering", "app.throughput"},
    {
        *{"app.api_keys", "app.classifier", "app.cloud", "app.lifecycle", "app.record"},
        *{"app.memory", "app.otel_environment", "app.secret_files", "app.unknown_variables"},
        *{"app.flags", "app.top_k"},
    },
    {"app.listeners", "app.request_head"},
    {"app.console", "app.cores", "app.errors", "app.extras", "app.settings", "app.timings"},
    {"app.quoting", "app.side_thread"},
]
MODEL_LAYERS = [
    {"model.train"},
    {"model.trainer"},
    {"model.gpu_step"},
    {"model.step"},
    {"model.batches"},
    {"model", "model.runfiles", "model.start"},
    {"model.evaluate"},
    {"model.classifier", "model.dataset", "model.holdout", "model.optimizers"},
    {"model.saliency"},
    {"model.backends.choose"},
    {"model.backends.compiled"},
    {
        "model.backends.cuda",
        "model.backends.openvino",
        "model.backends.openvino_graph",
        "model.backends.streams",
    },
    {"model.backends.agreement", "model.backends.torch"},
    {"model.backends.base", "model.backends.cache", "model.checkpoint", "model.photo"},
    {"model.backends.openvino_runtime"},
    {"model.prediction"},
    {"model.description", "model.preprocess", "model.scores", "model.search", "model.source"},
    {"model.decode", "model.hub", "model.witnesses"},
    {"model.directory", "model.greys", "model.timm_args", "model.variants"},
    {"model.container", "model.structure", "model.timm_config"},
    {
        "model.facts",
        "model.families",
        "model.imagenet",
        "model.sidecar",
        "model.structure.tiff",
        "model.torch_file",
    },
    {
        "model.stored",
        "model.structure.bmp",
        "model.structure.gif",
        "model.structure.jpeg",
        "model.structure.png",
        "model.structure.tiff_kind",
        "model.structure.webp",
    },
    {
        "model.lookalikes",
        "model.pickles",
        "model.simplify",
        "model.structure.bmp_masks",
        "model.structure.directory",
        "model.structure.encoded",
        "model.structure.work",
    },
    {"model.structure.splice", "model.xcit_published"},
    {
        "model.augment",
        "model.average",
        "model.colour",
        "model.distort",
        "model.foreign",
        "model.muon",
        "model.normalise",
        "model.recipe",
        "model.webp",
        "model.xcit",
    },
    {"model.spec"},
    {"model.tuning"},
    {"model.console", "model.errors", "model.passes", "model.timing"},
]
CLIENT_LAYERS = [
    {"xcit_client"},
    {"xcit_client.asynchronous", "xcit_client.sync"},
    {
        "xcit_client.bodies",
        "xcit_client.exchange",
        "xcit_client.images",
        "xcit_client.parallel",
        "xcit_client.progress",
    },
    {"xcit_client.os_errors", "xcit_client.results", "xcit_client.retries"},
    {"xcit_client.errors"},
]
LOAD_LAYERS = [
    {"benchmarks.load.plot", "benchmarks.load.report", "benchmarks.load.sample"},
    {"benchmarks.load.generator"},
    {"benchmarks.load.connection"},
]
WEB = {"fastapi", "starlette", "uvicorn", "opentelemetry"}
MEETING_PLACES = {"app.main", "app.model_settings", "app.offline"}
FORBIDDEN = {
    "xcit_client": {"app", "benchmarks", "model", "torch", "fastapi", "pydantic", "uvicorn"},
    "benchmarks.load": {"app", "model", "torch", "fastapi", "pydantic", "uvicorn"},
    "app": {"torch", "einops", "PIL", "openvino", "safetensors", "numpy"},
    "model": {"app", "fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"},
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
    """Every module that a file imports, wherever in it."""
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
def test_each_side_keeps_to_its_libraries(package: str) -> None:
    for module, path in modules(package).items():
        roots = {name.partition(".")[0] for name in imports(path)}
        assert not roots & FORBIDDEN[package], module


def test_app_and_model_meet_only_at_the_composition_root() -> None:
    meeting = {
        module
        for module, path in modules("app").items()
        if any(name.partition(".")[0] == "model" for name in imports(path))
    }
    assert meeting == MEETING_PLACES


@pytest.mark.parametrize(
    ("package", "layers"),
    [
        ("app", APP_LAYERS),
        ("benchmarks.load", LOAD_LAYERS),
        ("model", MODEL_LAYERS),
        ("xcit_client", CLIENT_LAYERS),
    ],
    ids=["app", "benchmarks.load", "model", "xcit_client"],
)
def test_imports_point_down(package: str, layers: list[set[str]]) -> None:
    height = {module: i for i, layer in enumerate(layers) for module in layer}
    files = {m: p for m, p in modules(package).items() if p.read_text().strip()}
    assert set(height) == set(files), "every module has its place in the layers"
    for module, path in files.items():
        for name in imports(path) & set(files):
            assert height[name] > height[module], f"{module} imports {name}"


def test_only_serve_imports_the_web_framework() -> None:
    """It takes time, and OpenTelemetry with it, which fails on some values of its variables."""
    script = f"import sys, app.offline, app.remote, app.bench; print({WEB} & {{*sys.modules}})"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("set()\n", "")


def test_only_the_commands_that_ask_a_server_know_the_client() -> None:
    asking = {
        module
        for module, path in modules("app").items()
        if any(name.partition(".")[0] == "xcit_client" for name in imports(path))
    }
    assert asking == {"app.bench", "app.remote"}


def test_the_service_side_needs_no_torch() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'PIL', 'numpy', 'einops']));"
    program = f"{blocked} import app.pipeline, app.api.predict, app.api.middleware, app.cli"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)


def test_the_client_depends_on_httpx_alone() -> None:
    project = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]
    assert [name.partition(">")[0] for name in project["dependencies"]] == ["httpx"]
    others = ["torch", "PIL", "numpy", "tqdm", "fastapi", "pydantic", "matplotlib"]
    program = f"import sys; sys.modules.update(dict.fromkeys({others})); import xcit_client"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)


def test_peers_of_the_comparison_need_nothing_that_their_environments_lack() -> None:
    peers = ROOT / "benchmarks" / "compare" / "peers"
    needed = {"benchmarks.ports", "benchmarks.compare.peers"}
    for path in peers.glob("*.py"):
        ours = {name for name in imports(path) if name.startswith(("benchmarks", "client", "app"))}
        assert {name for name in ours if not name.startswith(tuple(needed))} == set(), path
    assert not {name for name in imports(ROOT / "benchmarks" / "ports.py") if name != "socket"}
