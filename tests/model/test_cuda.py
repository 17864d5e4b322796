"""CUDA graphs compared with eager PyTorch on the CPU, on a machine with an NVIDIA GPU."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from app.serving.batcher import MicroBatcher
from app.serving.errors import OutOfMemory as ServiceOutOfMemory
from app.serving.inference_thread import InferenceThread
from model.backends.agreement import TOLERANCE, disagreement, probabilities
from model.backends.base import BackendOptions
from model.backends.choose import choose_backend
from model.backends.cuda import CudaBackend
from model.backends.torch import TorchBackend, cast
from model.errors import ModelError, OutOfMemory
from model.families.simplify import baseline, simplify_published, simplify_vit_pytorch
from model.families.xcit import XCiT
from model.families.xcit_published import PublishedXCiT
from model.images.preprocess import AnyPixels, Pixels
from model.inference.classifier import Classifier
from model.inference.saliency import Explainer
from model.scores import Logits, softmax
from model.spec import ModelSpec, PreprocessSpec

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
    """Pixels to logits, with weights like those of a trained network."""
    network.load_state_dict(realistic_weights(network.state_dict()))
    return simplify_vit_pytorch(network, spec.preprocess).eval()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Leave 512 MiB of the device's memory free."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**29) / total)
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
def test_gpu_agrees_with_cpu_at_every_batch_size(
    whole: nn.Sequential, kind: type[CudaBackend] | type[TorchBackend], precision: str
) -> None:
    batches = [noise(count, seed=count) for count in (1, 2, 3, 8, 8, 5)]
    expected = [answers(whole, pixels) for pixels in batches]
    backend = kind(cast(whole, precision), GPU, precision)
    backend.open()
    for _ in range(2):  # each size is first recorded, then replayed
        for pixels, scores in zip(batches, expected, strict=True):
            found = softmax(backend.logits(pixels))
            assert found == pytest.approx(scores, abs=TOLERANCE[precision])
            found = softmax(backend.logits(pixels.astype(np.float32)))
            assert found == pytest.approx(scores, abs=TOLERANCE[precision])


@pytest.mark.parametrize("precision", TOLERANCE)
def test_gpu_agrees_with_cpu_for_a_published_network(precision: str) -> None:
    network = PublishedXCiT(**TINY)
    network.load_state_dict(realistic_weights(network.state_dict()))
    preprocess = PreprocessSpec(32)
    expected = probabilities(baseline(network.eval(), preprocess), 32)
    backend = CudaBackend(cast(simplify_published(network, preprocess), precision), GPU, precision)
    assert disagreement(backend, expected, 32) is None


@pytest.mark.parametrize("first", ["bytes", "floats"])
def test_bytes_and_floats_share_a_recording(whole: nn.Sequential, first: str) -> None:
    expected = {count: answers(whole, noise(count)) for count in (1, 4)}
    backend = CudaBackend(whole, GPU, "float32")  # moves the network to the device
    backend.open()
    for count in expected:
        backend.logits(as_kind(noise(count), first))
    recordings = dict(backend._thread.lane.recordings)
    assert len(recordings) == 2
    for count, scores in expected.items():
        for kind in ("bytes", "floats", "bytes"):
            found = softmax(backend.logits(as_kind(noise(count), kind)))
            assert found == pytest.approx(scores, abs=TOLERANCE["float32"])
    assert backend._thread.lane.recordings == recordings


def test_threads_record_and_run_side_by_side(whole: nn.Sequential) -> None:
    expected = {count: answers(whole, noise(count)) for count in range(1, 17)}
    backend = CudaBackend(whole, GPU, "float32", streams=4)

    def run(offset: int) -> None:
        for step in range(64):
            count = 1 + (step + offset) % 16
            found = softmax(backend.logits(noise(count)))
            assert found == pytest.approx(expected[count], abs=TOLERANCE["float32"])

    with ThreadPoolExecutor(4, initializer=backend.open) as pool:
        list(pool.map(run, range(4)))


def test_auto_chooses_cuda_graphs(whole: nn.Sequential) -> None:
    expected = probabilities(whole, SIZE)
    chosen = choose_backend(lambda: whole, SIZE, expected, BackendOptions()).backend
    assert (chosen.name, chosen.streams, chosen.device) == ("torch-cudagraphs", 2, "cuda")
    assert chosen.precision in {"bfloat16", "float16"}


def test_disagreeing_16_bits_fall_back_to_32(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = probabilities(whole, SIZE)
    monkeypatch.setitem(TOLERANCE, "bfloat16", 0.0)
    options = BackendOptions(device="cuda", precision="bfloat16")
    backend, reason, _ = choose_backend(lambda: deepcopy(whole), SIZE, expected, options)
    assert (backend.name, backend.precision) == ("torch-cudagraphs", "float32")
    assert "not torch-cudagraphs in bfloat16 on cuda: a probability is" in reason


def test_different_network_disagrees(whole: nn.Sequential) -> None:
    expected = probabilities(whole, SIZE)[:, ::-1]
    backend = CudaBackend(whole, GPU, "float32")
    assert "a probability is" in str(disagreement(backend, expected, SIZE))


def test_lost_device_falls_back_to_cpu_unless_named(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_torch = TorchBackend.logits

    def lost(backend: CudaBackend | TorchBackend, pixels: AnyPixels) -> Logits:
        if isinstance(backend, TorchBackend) and backend.device == "cpu":
            return on_torch(backend, pixels)
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(CudaBackend, "logits", lost)
    monkeypatch.setattr(TorchBackend, "logits", lost)
    expected = probabilities(whole, SIZE)
    with pytest.raises(ModelError, match="torch-cudagraphs in float32 on cuda: CUDA error"):
        choose_backend(lambda: deepcopy(whole), SIZE, expected, BackendOptions(device="cuda"))
    backend, reason, _ = choose_backend(lambda: deepcopy(whole), SIZE, expected, BackendOptions())
    assert backend.device == "cpu"
    assert "torch-cudagraphs in float32 on cuda: CUDA error: device-side assert" in reason


@pytest.mark.usefixtures("little_memory")
def test_batch_that_does_not_fit_raises_out_of_memory_and_others_still_run(
    whole: nn.Sequential,
) -> None:
    expected = answers(whole, noise(2))
    backend = CudaBackend(whole, GPU, "float32")
    backend.open()
    backend.logits(noise(2))
    with pytest.raises(OutOfMemory, match="cuda is out of memory"):
        backend.logits(noise(100_000))
    for count in (2, 1):  # one size that is recorded and one that is not
        found = softmax(backend.logits(noise(count)))
        assert found == pytest.approx(expected[:count], abs=TOLERANCE["float32"])


class Hungry(nn.Module):
    """Returns the mean of each channel, and allocates 68 MiB per image."""

    def forward(self, pixels: Tensor) -> Tensor:
        room = torch.zeros(len(pixels), 17 * 2**20, device=pixels.device)
        return pixels.float().mean((1, 2)) + room[:, :1]


@pytest.mark.usefixtures("little_memory")
def test_batch_sizes_that_do_not_fit_are_dropped_at_start(
    spec: ModelSpec, caplog: pytest.LogCaptureFixture
) -> None:
    backend = CudaBackend(Hungry(), GPU, "float32")
    classifier = Classifier(spec, "0" * 64, backend, Explainer(nn.Identity, spec))
    classifier.open()
    assert "images are disabled: cuda is out of memory" in caplog.text
    assert classifier.max_batch_size < 8  # images, of 68 MiB each
    (found,) = classifier.predict([noise(1)[0]], 1)
    assert found.logits == pytest.approx(noise(1)[0].mean((0, 1)), rel=1e-4)


@pytest.mark.usefixtures("little_memory")
def test_batch_that_does_not_fit_is_run_in_halves() -> None:
    backend = TorchBackend(Hungry(), GPU, "float32")

    def run(images: list[Pixels]) -> list[float]:
        try:
            return [float(row[0]) for row in backend.logits(np.stack(images))]
        except OutOfMemory as error:
            raise ServiceOutOfMemory(str(error)) from error

    async def run_all() -> tuple[list[float], int]:
        stream = InferenceThread(0)
        batcher = MicroBatcher(run, [stream], max_batch_size=16, max_queue_size=16)
        batcher.start()
        images = [np.full((4, 4, 3), number, np.uint8) for number in range(16)]
        outcomes = await asyncio.gather(*(batcher.submit(image) for image in images))
        await batcher.close()
        stream.stop()
        return [outcome.result for outcome in outcomes], batcher.max_batch_size

    means, max_batch_size = asyncio.run(run_all())
    assert means == [*range(16)]
    assert max_batch_size < 8  # images, of 68 MiB each


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
table[torch.full((1,), 10**9, device="cuda")]  # fails; a later call reports it
try:
    for _ in range(1000):  # the assertion may fail after the next pass has run
        backend.logits(np.zeros((1, 4, 4, 3), np.uint8))
except DeviceError as error:
    print("lost:", str(error).partition("\\n")[0], flush=True)
"""


def test_lost_device_raises_device_error() -> None:
    """In a new process, which cannot use the device afterwards."""
    command = [sys.executable, "-c", LOSE_THE_DEVICE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "lost: cuda failed: " in result.stdout, result.stderr
