"""CUDA graphs beside plain PyTorch on the CPU, on a machine with an NVIDIA GPU."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from model.backends.agreement import TOLERANCE, disagreement, probabilities
from model.backends.base import BackendOptions
from model.backends.choose import choose_backend
from model.backends.cuda import CudaBackend
from model.backends.torch import TorchBackend, narrow
from model.errors import ModelError, OutOfMemory
from model.preprocess import AnyPixels, Pixels
from model.scores import softmax
from model.simplify import plain, simplify_published, simplify_vit_pytorch
from model.spec import ModelSpec, PreprocessSpec
from model.xcit import XCiT
from model.xcit_published import PublishedXCiT

from .conftest import HYPERPARAMETERS
from .published import realistic_weights
from .test_xcit_published import TINY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

GPU = torch.device("cuda")
SIZE = HYPERPARAMETERS["image_size"]


@pytest.fixture
def whole(spec: ModelSpec, network: XCiT) -> nn.Sequential:
    """Pixels to logits, with weights as training leaves them."""
    network.load_state_dict(realistic_weights(network.state_dict()))
    return simplify_vit_pytorch(network, spec.preprocess).eval()


@pytest.fixture
def little_memory() -> Iterator[None]:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(2**29, free) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def noise(count: int, seed: int = 1) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def as_kind(pixels: AnyPixels, kind: str) -> AnyPixels:
    return pixels.astype(np.float32) if kind == "floats" else pixels


def answers(network: nn.Module, pixels: Pixels) -> np.ndarray:
    with torch.inference_mode():
        return softmax(network(torch.from_numpy(pixels)).numpy())


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("kind", [CudaBackend, TorchBackend])
def test_a_gpu_agrees_with_the_cpu_at_every_batch_size(
    whole: nn.Sequential, kind: type[CudaBackend] | type[TorchBackend], precision: str
) -> None:
    batches = [noise(count, seed=count) for count in (1, 2, 3, 8, 8, 5)]
    expected = [answers(whole, pixels) for pixels in batches]
    backend = kind(narrow(whole, precision), GPU, precision)
    backend.open()
    for _ in range(2):  # the first time each size is recorded, then replayed
        for pixels, scores in zip(batches, expected, strict=True):
            found = softmax(backend.logits(pixels))
            assert found == pytest.approx(scores, abs=TOLERANCE[precision])
            found = softmax(backend.logits(pixels.astype(np.float32)))
            assert found == pytest.approx(scores, abs=TOLERANCE[precision])


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_published_network_agrees_too(precision: str) -> None:
    network = PublishedXCiT(**TINY)
    network.load_state_dict(realistic_weights(network.state_dict()))
    preprocess = PreprocessSpec(32)
    expected = probabilities(plain(network.eval(), preprocess), 32)
    backend = CudaBackend(
        narrow(simplify_published(network, preprocess), precision), GPU, precision
    )
    assert disagreement(backend, expected, 32) is None


@pytest.mark.parametrize("first", ["bytes", "floats"])
def test_bytes_and_floats_share_a_recording(whole: nn.Sequential, first: str) -> None:
    backend = CudaBackend(whole, GPU, "float32")
    backend.open()
    expected = {count: answers(whole, noise(count)) for count in (1, 4)}
    for count in expected:
        backend.logits(as_kind(noise(count), first))
    recordings = dict(backend._thread.lane.recordings)
    assert len(recordings) == 2
    for count, scores in expected.items():
        for kind in ("bytes", "floats", "bytes"):
            found = softmax(backend.logits(as_kind(noise(count), kind)))
            assert found == pytest.approx(scores, abs=TOLERANCE["float32"])
    assert backend._thread.lane.recordings == recordings


def test_streams_record_and_run_side_by_side(whole: nn.Sequential) -> None:
    expected = {count: answers(whole, noise(count)) for count in range(1, 17)}
    backend = CudaBackend(whole, GPU, "float32", streams=4)

    def run(offset: int) -> None:
        for step in range(64):
            count = 1 + (step + offset) % 16
            found = softmax(backend.logits(noise(count)))
            assert found == pytest.approx(expected[count], abs=TOLERANCE["float32"])

    with ThreadPoolExecutor(4, initializer=backend.open) as pool:
        list(pool.map(run, range(4)))


def test_cuda_graphs_are_what_auto_chooses(whole: nn.Sequential) -> None:
    expected = probabilities(whole, SIZE)
    chosen = choose_backend(lambda: whole, SIZE, expected, BackendOptions()).backend
    assert (chosen.name, chosen.streams, chosen.device) == ("torch-cudagraphs", 2, "cuda")
    assert chosen.precision in {"bfloat16", "float16"}


def test_a_lost_device_is_replaced_by_the_cpu_or_ends_the_choice(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(CudaBackend, "logits", lost)
    monkeypatch.setattr("model.backends.choose.TorchBackend.logits", lost)
    expected = probabilities(whole, SIZE)
    with pytest.raises(ModelError, match="torch-cudagraphs in float32 on cuda: CUDA error"):
        choose_backend(lambda: whole, SIZE, expected, BackendOptions(device="cuda"))
    backend, reason = choose_backend(lambda: whole, SIZE, expected, BackendOptions())
    assert (backend.name, backend.device) == ("openvino", "cpu")
    assert "torch-cudagraphs in float32 on cuda: CUDA error: device-side assert" in reason


@pytest.mark.usefixtures("little_memory")
def test_a_batch_that_does_not_fit_is_told_and_others_go_on(whole: nn.Sequential) -> None:
    expected = answers(whole, noise(2))
    backend = CudaBackend(whole, GPU, "float32")
    backend.open()
    backend.logits(noise(2))
    with pytest.raises(OutOfMemory, match="cuda is out of memory"):
        backend.logits(noise(100_000))
    for count in (2, 1):  # one that is recorded, and one that is not yet
        found = softmax(backend.logits(noise(count)))
        assert found == pytest.approx(expected[:count], abs=TOLERANCE["float32"])


LOSE_THE_DEVICE = """
import numpy as np
import torch
from torch import nn
from model.backends.cuda import CudaBackend
from model.errors import DeviceError

class Mean(nn.Module):
    def forward(self, pixels):
        return pixels.float().mean((1, 2))

backend = CudaBackend(Mean(), torch.device("cuda"), "float32")
backend.open()
backend.logits(np.zeros((1, 4, 4, 3), np.uint8))
table = torch.zeros(3, device="cuda")
table[torch.full((1,), 10**9, device="cuda")]  # an assertion on the device, told by what comes next
try:
    backend.logits(np.zeros((1, 4, 4, 3), np.uint8))
except DeviceError as error:
    print("told:", str(error).partition("\\n")[0])
"""


def test_a_lost_device_is_told() -> None:
    """In a process of its own, which cannot use the device any more."""
    command = [sys.executable, "-c", LOSE_THE_DEVICE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "told: cuda failed: " in result.stdout, result.stderr
