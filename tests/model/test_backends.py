"""Each backend on the CPU compared with eager PyTorch."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.backends.agreement import TOLERANCE
from model.backends.base import Backend
from model.backends.openvino import OpenVINOBackend
from model.backends.openvino_graph import fingerprint, to_graph
from model.backends.torch import TorchBackend, cast, to_script
from model.errors import DeviceError, OutOfMemory
from model.families.simplify import baseline, simplify_published, simplify_vit_pytorch
from model.families.xcit import XCiT
from model.families.xcit_published import PublishedXCiT
from model.images.preprocess import AnyPixels, Pixels
from model.scores import Scores, best_classes, softmax
from model.spec import PreprocessSpec

from .conftest import HYPERPARAMETERS
from .published import realistic_weights
from .test_xcit_published import TINY

pytestmark = pytest.mark.usefixtures("_threads")

CPU = torch.device("cpu")
SIZE = HYPERPARAMETERS["image_size"]


Run = Callable[..., Backend]


def on_openvino(network: nn.Sequential, precision: str, size: int = SIZE) -> Backend:
    return OpenVINOBackend(to_graph(network, size), precision, streams=2, threads=1)


def on_torch(network: nn.Sequential, precision: str, size: int = SIZE) -> Backend:
    return TorchBackend(to_script(cast(network, precision), size), CPU, precision)


def noise(count: int, size: int = SIZE) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)


def answers(network: nn.Module, pixels: AnyPixels) -> Scores:
    with torch.inference_mode():
        found: Scores = network(torch.from_numpy(pixels)).softmax(-1).numpy()
    return found


@pytest.mark.parametrize("run", [on_openvino, on_torch])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.04)])
def test_every_backend_matches_pytorch_at_any_batch_size(
    whole: nn.Sequential,
    run: Run,
    precision: str,
    tolerance: float,
) -> None:
    pixels = noise(5)
    expected = answers(whole, pixels)
    backend = run(whole, precision)
    backend.open()
    for count in (5, 1, 3):
        scores = softmax(backend.logits(pixels[:count]))
        assert np.abs(scores - expected[:count]).max() < tolerance
    kept = backend.logits(pixels)
    copy = kept.copy()
    backend.logits(pixels[::-1].copy())
    assert (kept == copy).all(), "one pass writes over the answers of another"


@pytest.mark.parametrize("run", [on_openvino, on_torch])
def test_backend_accepts_fractional_pixels(whole: nn.Sequential, run: Run) -> None:
    pixels = (noise(3) * 0.99 - 0.3).astype(np.float32)
    backend = run(whole, "float32")
    backend.open()
    assert np.abs(softmax(backend.logits(pixels)) - answers(whole, pixels)).max() < 1e-5


@pytest.mark.parametrize("run", [on_openvino, on_torch])
def test_every_backend_runs_the_published_family(run: Run) -> None:
    network = PublishedXCiT(**TINY).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    preprocess = PreprocessSpec(64)
    expected = answers(baseline(network, preprocess), noise(3, 64))
    backend = run(simplify_published(network, preprocess), "float32", 64)
    backend.open()
    assert np.abs(softmax(backend.logits(noise(3, 64))) - expected).max() < 1e-5


def test_best_classes_are_sorted_for_any_top_k() -> None:
    logits = np.array([[0.0, 3.0, 1.0, 2.0], [5.0, 5.0, -90.0, 800.0]], np.float32)
    for top_k in (1, 2, 4):
        scores, ids = best_classes(logits, top_k)
        expected = torch.from_numpy(logits).softmax(-1).topk(top_k)
        assert scores == pytest.approx(expected.values.numpy())
        assert ids[0].tolist() == expected.indices[0].tolist()


@pytest.mark.parametrize("cls_depth", [1, 3])
@pytest.mark.parametrize("kernel", [3, 5])
def test_simplified_network_gives_the_same_logits(cls_depth: int, kernel: int) -> None:
    changes = {"cls_depth": cls_depth, "local_patch_kernel_size": kernel, "depth": 3}
    network = XCiT(**HYPERPARAMETERS | changes).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    assert_simplified(network, simplify_vit_pytorch, PreprocessSpec(SIZE, mean=(0.1, 0.5, 0.9)))


@pytest.mark.parametrize("tokens_norm", [True, False])
@pytest.mark.parametrize("patch_size", [8, 16])
def test_simplified_published_network_gives_the_same_logits(
    tokens_norm: bool, patch_size: int
) -> None:
    changes = {"tokens_norm": tokens_norm, "patch_size": patch_size, "cls_depth": 3}
    network = PublishedXCiT(**TINY | changes).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    assert_simplified(network, simplify_published, PreprocessSpec(64, std=(0.1, 0.2, 0.4)))


def assert_simplified(
    network: nn.Module,
    simplify: Callable[..., nn.Module],
    preprocess: PreprocessSpec,
) -> None:
    pixels = torch.from_numpy(noise(3, preprocess.image_size))
    with torch.inference_mode():
        expected = baseline(network, preprocess)(pixels)
        simpler = simplify(network, preprocess)
        logits = simpler(pixels)
    assert float((logits - expected).norm() / expected.norm()) < 2e-6
    left = {type(module).__name__ for module in simpler.modules()}
    assert not left & {"BatchNorm2d", "LayerScale", "FourierPositions"}
    assert not any("gamma" in name for name, _ in simpler.named_parameters() if "cls" not in name)


@pytest.mark.parametrize(
    ("network", "simplify", "size", "part"),
    [
        (XCiT(**HYPERPARAMETERS), simplify_vit_pytorch, SIZE, "to_qkv.weight"),
        (PublishedXCiT(**TINY), simplify_published, 64, "blocks.0.attn.qkv.weight"),
    ],
)
def test_large_queries_and_keys_do_not_overflow_16_bits(
    network: nn.Module, simplify: Callable[..., nn.Sequential], size: int, part: str
) -> None:
    network.eval().load_state_dict(realistic_weights(network.state_dict()))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(part):
                weight[: len(weight) * 2 // 3] *= 100
    preprocess = PreprocessSpec(size)
    expected = answers(baseline(network, preprocess), noise(3, size))
    backend = on_torch(simplify(network, preprocess), "float16", size)
    assert np.abs(softmax(backend.logits(noise(3, size))) - expected).max() < TOLERANCE["float16"]


def test_fingerprint_changes_with_anything_that_changes_the_graph() -> None:
    def seen(size: int = SIZE, *, seed: int = 0, **changes: int) -> str:
        torch.manual_seed(seed)
        network = XCiT(**(HYPERPARAMETERS | changes))
        return fingerprint(baseline(network, PreprocessSpec(SIZE)), size)

    one = seen()
    assert one == seen()
    others = [seen(2 * SIZE), seen(seed=1), seen(heads=1, dim_head=16)]
    assert len({one, *others}) == 1 + len(others)


class Failing(nn.Module):
    def __init__(self, error: RuntimeError) -> None:
        super().__init__()
        self.error = error

    def forward(self, pixels: Tensor) -> Tensor:
        raise self.error


def test_lost_device_raises_device_error() -> None:
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(DeviceError, match="illegal memory access"):
        TorchBackend(Failing(lost), CPU, "float32").logits(noise(1))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
    ids=lambda error: str(error)[:30],
)
def test_every_out_of_memory_error_raises_out_of_memory(error: RuntimeError) -> None:
    with pytest.raises(OutOfMemory, match="cpu is out of memory"):
        TorchBackend(Failing(error), CPU, "float32").logits(noise(1))


def test_other_errors_of_a_pass_are_not_converted() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as raised:
        TorchBackend(Failing(error), CPU, "float32").logits(noise(1))
    assert raised.value is error
