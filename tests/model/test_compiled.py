"""Compiling the network with PyTorch on a CPU: caching and failures."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.backends.compiled import CompiledCudaBackend, CompiledNetwork, keep_kernels
from model.errors import OutOfMemory

from .conftest import HYPERPARAMETERS

pytestmark = pytest.mark.usefixtures("_threads")

ROOT = Path(__file__).parents[2]
SIZE = HYPERPARAMETERS["image_size"]
Compile = Callable[..., Callable[..., Tensor]]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Restore the variables that `keep_kernels` sets."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # PyTorch may create it


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace `torch.compile`; returns the options of its calls."""
    calls: list[dict[str, Any]] = []

    def record(function: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
        calls.append(options)
        return function

    monkeypatch.setattr(torch, "compile", record)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> CompiledNetwork:
    """A network whose compilation raises ``error``."""

    def compile_function(function: object, **options: object) -> Callable[..., Tensor]:
        def fail(network: nn.Module, pixels: Tensor) -> Tensor:
            raise error

        return fail

    monkeypatch.setattr(torch, "compile", compile_function)
    return CompiledNetwork(nn.Identity())


def forget_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)


def test_shapes_are_static_and_inductors_cuda_graphs_are_disabled(
    compiled: list[dict[str, Any]],
) -> None:
    CompiledNetwork(nn.Identity())
    expected = {"fullgraph": True, "dynamic": False, "options": {"triton.cudagraphs": False}}
    assert compiled == [expected]


@pytest.mark.usefixtures("compiled")
def test_log_names_each_compiled_batch_size_with_its_duration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    network = CompiledNetwork(nn.Identity())
    for size in (4, 1, 4, 1):
        network(torch.zeros(size, 2))
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(" in ")[0] for line in told] == [
        "compiling the network for batches of 4 images",
        "compiled the network for batches of 4 images",
        "compiling the network for batches of 1 images",
        "compiled the network for batches of 1 images",
    ]


def test_each_batch_size_is_traced_in_every_thread_for_every_equal_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More sizes than PyTorch's default limit of 8, traced and run without compiling kernels."""
    real: Compile = torch.compile
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(
        torch, "compile", lambda function, options, **rest: real(function, backend=keep, **rest)
    )
    steps = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.GELU(), nn.Linear(3, 2)))
    networks = [CompiledNetwork(steps), CompiledNetwork(steps)]

    @torch.inference_mode()
    def passes() -> None:
        torch.set_num_threads(1)
        for network in networks:
            for size in range(1, 12):
                found = network(torch.ones(size, 3))
                assert torch.equal(found, steps(torch.ones(size, 3)))

    for _ in range(2):
        thread = Thread(target=passes)
        thread.start()
        thread.join()
    assert len(graphs) == 11


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("lost")])
def test_device_error_is_not_reported_as_a_compiler_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    forget_compilers(monkeypatch)
    with pytest.raises(type(error), match=str(error)):
        failing(monkeypatch, error)(torch.zeros(1))


def test_missing_c_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_compilers(monkeypatch)
    network = failing(monkeypatch, RuntimeError("Failed to find C compiler.\nAnd more"))
    message = r"Triton needs a C compiler, .*: install gcc \(Failed to find C compiler\.\)$"
    with pytest.raises(RuntimeError, match=message):
        network(torch.zeros(1))
    monkeypatch.setenv("CC", "gcc-13")
    with pytest.raises(RuntimeError, match=r"cannot be compiled: Failed to find C compiler\.$"):
        network(torch.zeros(1))


def test_last_line_of_a_compiler_process_error_is_quoted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._inductor.compile_worker.subproc_pool import SubprocException
    from torch._inductor.exc import InductorError

    monkeypatch.setenv("CC", "gcc")
    inner = SubprocException("Traceback:\n  File x\nRuntimeError: ptxas failed with 1\n")
    network = failing(monkeypatch, InductorError(inner, None))
    with pytest.raises(RuntimeError, match=r"cannot be compiled: RuntimeError: ptxas failed"):
        network(torch.zeros(1))


def test_compiler_processes_end_when_batch_sizes_are_chosen(
    monkeypatch: pytest.MonkeyPatch, compiled: list[dict[str, Any]]
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(
        "torch._inductor.async_compile.shutdown_compile_workers", lambda: ended.append(True)
    )
    backend = CompiledCudaBackend(nn.Identity(), torch.device("cpu"), "float32")
    assert (backend.name, backend.pads, len(compiled)) == ("torch-compile-cudagraphs", True, 1)
    backend.keep([1, 2])
    assert ended == [True]


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def used() -> list[str]:
    return [os.environ[name] for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")]


def test_kernels_are_cached_privately(tmp_path: Path) -> None:
    for _ in range(2):
        directory = keep_kernels(tmp_path / "cache")
        assert directory == tmp_path / "cache" / "torch"
        assert mode(directory) == 0o700
        assert used() == [str(directory), str(directory / "triton")]
        (directory / "ab").mkdir(
            mode=0o777, exist_ok=True
        )  # PyTorch creates directories with this mode


@pytest.mark.parametrize("bits", [0o755, 0o710, 0o701, 0o770])
def test_kernels_that_others_can_reach_are_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bits: int
) -> None:
    keep_kernels(tmp_path).chmod(bits)
    directory = keep_kernels(tmp_path)
    assert tmp_path not in directory.parents
    assert mode(directory) == 0o700
    assert used() == [str(directory), str(directory / "triton")]
    assert "compiled models are not cached in" in caplog.text


def test_link_to_a_kernel_directory_is_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "cache").mkdir(mode=0o700)
    (tmp_path / "cache" / "torch").symlink_to(tmp_path / "elsewhere")
    assert tmp_path not in keep_kernels(tmp_path / "cache").parents
    assert "is a symbolic link; remove it" in caplog.text


@pytest.mark.thorough
def test_without_a_cache_kernels_are_removed_when_the_process_ends() -> None:
    program = (
        "from model.backends.compiled import keep_kernels; print(keep_kernels(None).exists(), "
        "keep_kernels(None))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    existed, directory = done.stdout.split()
    assert existed == "True"
    assert not Path(directory).exists()


def test_out_of_memory_while_compiling_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from model.backends.torch import device_errors

    network = failing(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(OutOfMemory, match="cuda is out of memory"), device_errors("cuda"):
        network(torch.zeros(1))


START = """
import json
import sys
from pathlib import Path

import torch
from model.backends.compiled import CompiledNetwork, keep_kernels
from model.families.simplify import simplify_vit_pytorch
from model.spec import PreprocessSpec
from tests.model.conftest import HYPERPARAMETERS
from tests.model.published import realistic_weights
from model.families.xcit import XCiT

keep_kernels(Path(sys.argv[1]))
torch.set_num_threads(1)
network = XCiT(**HYPERPARAMETERS).eval()
network.load_state_dict(realistic_weights(network.state_dict()))
whole = simplify_vit_pytorch(network, PreprocessSpec(16)).eval()
compiled = CompiledNetwork(whole)
with torch.inference_mode():
    pixels = 255 * torch.rand(2, 16, 16, 3)
    off = (compiled(pixels).softmax(-1) - whole(pixels).softmax(-1)).abs().max().item()
from torch._dynamo.utils import counters
found = dict(counters["aot_autograd"])
keys = "autograd_cache_hit", "autograd_cache_miss"
print(json.dumps({"off": off, "cache": [found.get(key, 0) for key in keys]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor needs a C++ compiler on a CPU")
def test_compiled_kernels_agree_and_are_found_by_the_next_start(
    tmp_path: Path,
) -> None:
    for expected in ([0, 1], [1, 0]):
        done = subprocess.run(
            [sys.executable, "-c", START, str(tmp_path / "cache")],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["off"] < 1e-5
        assert found["cache"] == expected
