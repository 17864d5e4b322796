"""Compiled kernels under CUDA graphs, on a machine with an NVIDIA GPU and a C compiler."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.backends.agreement import TOLERANCE
from model.backends.compiled import CompiledCudaBackend, keep_kernels
from model.backends.torch import cast
from model.families.simplify import simplify_published, simplify_vit_pytorch
from model.families.xcit import XCiT
from model.families.xcit_published import PublishedXCiT
from model.scores import softmax
from model.spec import PreprocessSpec

from .conftest import HYPERPARAMETERS
from .published import realistic_weights
from .test_xcit_published import TINY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(not shutil.which("gcc"), reason="Triton needs a C compiler"),
]

ROOT = Path(__file__).parents[2]
GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def _kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    keep_kernels(tmp_path_factory.mktemp("cache"))


def vit_pytorch() -> nn.Sequential:
    torch.manual_seed(0)
    network = XCiT(**HYPERPARAMETERS).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    return simplify_vit_pytorch(network, PreprocessSpec(16)).eval()


def published() -> nn.Sequential:
    torch.manual_seed(0)
    network = PublishedXCiT(**TINY).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    return simplify_published(network, PreprocessSpec(32)).eval()


@pytest.mark.usefixtures("_kernels")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("make", "side"), [(vit_pytorch, 16), (published, 32)])
def test_compiled_network_agrees_with_cpu_in_every_thread(
    make: Any, side: int, precision: str
) -> None:
    plain = make()
    batches = [
        np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)
        for count in (1, 3)
    ]
    with torch.inference_mode():
        expected = [softmax(plain(torch.from_numpy(pixels)).numpy()) for pixels in batches]
    backend = CompiledCudaBackend(
        cast(make(), precision), GPU, precision, streams=2, workers=os.cpu_count() or 1
    )

    def run(_: int) -> None:
        for _ in range(2):  # each size is first compiled and recorded, then replayed
            for pixels, scores in zip(batches, expected, strict=True):
                for batch in (pixels, pixels.astype(np.float32)):
                    found = softmax(backend.logits(batch))
                    assert found == pytest.approx(scores, abs=TOLERANCE[precision])

    with ThreadPoolExecutor(2, initializer=backend.open) as pool:
        list(pool.map(run, range(2)))
    backend.keep([1, 3])


START = """
import json
import sys
import time
from pathlib import Path

from model.backends.agreement import probabilities
from model.backends.base import BackendOptions
from model.backends.choose import choose_backend
from tests.model.test_cuda_compiled import vit_pytorch

expected = probabilities(vit_pytorch(), 16)
options = BackendOptions(
    device="cuda", precision="bfloat16", compile=True, cores=8, cache_dir=Path(sys.argv[1])
)
begun = time.perf_counter()
backend, reason, _ = choose_backend(vit_pytorch, 16, expected, options)
seconds = time.perf_counter() - begun
from torch._dynamo.utils import counters
hits = counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"]
print(json.dumps({"name": backend.name, "reason": reason, "hits": hits, "seconds": seconds}))
"""


def start(cache: Path, **variables: str) -> dict[str, Any]:
    """Choose a backend in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", START, str(cache)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_second_start_reuses_the_kernels_of_the_first(tmp_path: Path) -> None:
    first, second = start(tmp_path / "cache"), start(tmp_path / "cache")
    print(f"first start {first['seconds']:.1f} s, second {second['seconds']:.1f} s")  # noqa: T201
    for found in (first, second):
        assert found["name"] == "torch-compile-cudagraphs", found["reason"]
    assert [found["hits"] for found in (first, second)] == [[0, 1], [1, 0]]
    assert second["seconds"] < first["seconds"]


def test_without_a_c_compiler_cuda_graphs_are_used(tmp_path: Path) -> None:
    found = start(tmp_path / "cache", PATH=str(tmp_path), CC="")
    assert found["name"] == "torch-cudagraphs"
    assert "Triton needs a C compiler, and none was found" in found["reason"]
