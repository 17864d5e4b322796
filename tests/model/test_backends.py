"""Who runs the forward pass: each backend beside plain PyTorch, and which of them is chosen."""

import logging
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.backends import choose
from model.backends.base import Backend
from model.backends.choose import (
    TOLERANCE,
    BackendOptions,
    choose_backend,
    disagreement,
    probabilities,
)
from model.backends.openvino import OpenVINOBackend
from model.backends.openvino_graph import fingerprint, to_graph
from model.backends.torch import TorchBackend, choose_device, narrow, to_script
from model.errors import DeviceError, ModelError
from model.preprocess import AnyPixels, Pixels
from model.scores import Logits, Scores, best_classes, softmax
from model.simplify import plain, simplify_published, simplify_vit_pytorch
from model.spec import ModelSpec, PreprocessSpec
from model.xcit import XCiT
from model.xcit_published import PublishedXCiT

from .conftest import HYPERPARAMETERS
from .published import realistic_weights
from .test_xcit_published import TINY

CPU = torch.device("cpu")
SIZE = HYPERPARAMETERS["image_size"]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def whole(spec: ModelSpec, network: XCiT) -> nn.Sequential:
    """Pixels to logits, with weights as training leaves them."""
    network.load_state_dict(realistic_weights(network.state_dict()))
    return plain(network, spec.preprocess).eval()


Run = Callable[..., Backend]


def on_openvino(network: nn.Sequential, precision: str, size: int = SIZE) -> Backend:
    return OpenVINOBackend(to_graph(network, size), precision, streams=2, threads=1)


def on_torch(network: nn.Sequential, precision: str, size: int = SIZE) -> Backend:
    return TorchBackend(to_script(narrow(network, precision), size), CPU, precision)


def noise(count: int, size: int = SIZE) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)


def answers(network: nn.Module, pixels: AnyPixels) -> Scores:
    with torch.inference_mode():
        found: Scores = network(torch.from_numpy(pixels)).softmax(-1).numpy()
    return found


@pytest.mark.parametrize("run", [on_openvino, on_torch])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.04)])
def test_every_backend_gives_the_networks_probabilities_at_any_batch_size(
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
def test_a_backend_takes_pixels_between_two_levels(whole: nn.Sequential, run: Run) -> None:
    pixels = (noise(3) * 0.99 - 0.3).astype(np.float32)
    backend = run(whole, "float32")
    backend.open()
    assert np.abs(softmax(backend.logits(pixels)) - answers(whole, pixels)).max() < 1e-5


@pytest.mark.parametrize("run", [on_openvino, on_torch])
def test_every_backend_follows_the_published_family(run: Run) -> None:
    network = PublishedXCiT(**TINY).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    preprocess = PreprocessSpec(64)
    expected = answers(plain(network, preprocess), noise(3, 64))
    backend = run(simplify_published(network, preprocess), "float32", 64)
    backend.open()
    assert np.abs(softmax(backend.logits(noise(3, 64))) - expected).max() < 1e-5


def test_the_best_classes_come_in_order_whatever_their_number() -> None:
    logits = np.array([[0.0, 3.0, 1.0, 2.0], [5.0, 5.0, -90.0, 800.0]], np.float32)
    for top_k in (1, 2, 4):
        scores, ids = best_classes(logits, top_k)
        expected = torch.from_numpy(logits).softmax(-1).topk(top_k)
        assert scores == pytest.approx(expected.values.numpy())
        assert ids[0].tolist() == expected.indices[0].tolist()


@pytest.mark.parametrize("cls_depth", [1, 3])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_simplified_network_gives_the_same_logits(cls_depth: int, kernel: int) -> None:
    changes = {"cls_depth": cls_depth, "local_patch_kernel_size": kernel, "depth": 3}
    network = XCiT(**HYPERPARAMETERS | changes).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    assert_simplified(network, simplify_vit_pytorch, PreprocessSpec(SIZE, mean=(0.1, 0.5, 0.9)))


@pytest.mark.parametrize("tokens_norm", [True, False])
@pytest.mark.parametrize("patch_size", [8, 16])
def test_a_simplified_published_network_gives_the_same_logits(
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
        expected = plain(network, preprocess)(pixels)
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
def test_long_queries_and_keys_stay_in_the_range_of_16_bits(
    network: nn.Module, simplify: Callable[..., nn.Sequential], size: int, part: str
) -> None:
    network.eval().load_state_dict(realistic_weights(network.state_dict()))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(part):
                weight[: len(weight) * 2 // 3] *= 100
    preprocess = PreprocessSpec(size)
    expected = answers(plain(network, preprocess), noise(3, size))
    backend = on_torch(simplify(network, preprocess), "float16", size)
    assert np.abs(softmax(backend.logits(noise(3, size))) - expected).max() < TOLERANCE["float16"]


def test_auto_takes_openvino_on_a_cpu(whole: nn.Sequential) -> None:
    backend, reason = choose_backend(
        lambda: whole, SIZE, probabilities(whole, SIZE), BackendOptions(device="cpu", cores=2)
    )
    assert backend.name == "openvino"
    assert backend.streams * backend.threads == 2
    assert reason == "first choice on cpu; agrees with 32-bit PyTorch"


Started = Callable[[], Backend]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "made" / "here"


@pytest.fixture
def start(whole: nn.Sequential, cache: Path) -> Started:
    """As a service starts, on a cache of its own."""
    options = BackendOptions(backend="openvino", device="cpu", streams=1, cache_dir=cache)
    expected = probabilities(whole, SIZE)
    return lambda: choose_backend(lambda: whole, SIZE, expected, options).backend


def written(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.iterdir()}


def test_a_compiled_model_is_kept_for_the_next_start(
    start: Started, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start()
    kept = written(cache)
    assert sorted(path.suffix for path in kept) == [".bin", ".blob", ".xml"]
    monkeypatch.delattr("model.backends.openvino_graph.to_graph")
    assert start().name == "openvino"
    assert written(cache) == kept, "compiled again"


@pytest.mark.parametrize("suffix", [".bin", ".blob", ".xml"])
def test_half_a_file_in_the_cache_is_made_anew(start: Started, cache: Path, suffix: str) -> None:
    start()
    (kept,) = cache.glob(f"*{suffix}")
    size = kept.stat().st_size
    kept.chmod(0o600)
    kept.write_bytes(kept.read_bytes()[: size // 2])
    assert start().name == "openvino"
    assert kept.stat().st_size > 0.9 * size, "the broken one is still there"


def test_a_full_disk_is_told_and_done_without(
    start: Started, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    assert start().name == "openvino"
    assert "No space left on device" in caplog.text
    assert not [*cache.glob("*.xml")]


def test_what_makes_another_graph_has_another_fingerprint() -> None:
    def seen(size: int = SIZE, *, seed: int = 0, **changes: int) -> str:
        torch.manual_seed(seed)
        network = XCiT(**(HYPERPARAMETERS | changes))
        return fingerprint(plain(network, PreprocessSpec(SIZE)), size)

    one = seen()
    assert one == seen()
    others = [seen(2 * SIZE), seen(seed=1), seen(heads=1, dim_head=16)]
    assert len({one, *others}) == 1 + len(others)


def test_a_cache_that_cannot_be_written_is_told_and_done_without(
    whole: nn.Sequential, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    options = BackendOptions(backend="openvino", device="cpu", cache_dir=tmp_path / "file" / "x")
    backend, reason = choose_backend(lambda: whole, SIZE, probabilities(whole, SIZE), options)
    assert backend.name == "openvino"
    assert "compiled models are not kept" in caplog.text
    assert reason == "openvino was asked for; agrees with 32-bit PyTorch"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_backend_precision_and_streams_can_be_chosen(whole: nn.Sequential, precision: str) -> None:
    options = BackendOptions(backend="torch", device="cpu", precision=precision, cores=4, streams=2)
    backend, reason = choose_backend(lambda: whole, SIZE, probabilities(whole, SIZE), options)
    assert (backend.name, backend.precision) == ("torch", precision)
    assert reason.startswith("torch was asked for; ")
    backend.open()
    assert (backend.streams, torch.get_num_threads()) == (2, 2)


def test_a_backend_that_disagrees_is_replaced_and_that_is_told(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(OpenVINOBackend):
        def logits(self, pixels: AnyPixels) -> Logits:
            return np.roll(super().logits(pixels), 1, axis=1)

    monkeypatch.setattr("model.backends.openvino.OpenVINOBackend", Wrong)
    caplog.set_level(logging.WARNING)
    options = BackendOptions(device="cpu", precision="bfloat16")
    backend, reason = choose_backend(lambda: whole, SIZE, probabilities(whole, SIZE), options)
    assert backend.name == "torch"
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(" is not used: a probability is")[0] for line in told] == [
        "backend openvino in bfloat16",
        "backend openvino in float32",
    ]
    for precision in ("bfloat16", "float32"):
        assert f"not openvino in {precision}: a probability is" in reason


def test_a_backend_that_cannot_be_built_is_replaced(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(network: nn.Module, image_size: int) -> object:
        raise RuntimeError("no rule for aten::secret\nand more")

    monkeypatch.setattr("model.backends.openvino_graph.to_graph", fail)
    backend, reason = choose_backend(
        lambda: whole, SIZE, probabilities(whole, SIZE), BackendOptions(device="cpu")
    )
    assert backend.name == "torch"
    assert "openvino in float32 is not used: no rule for aten::secret" in caplog.text
    assert "; not openvino in float32: no rule for aten::secret; agrees with" in reason


def test_weights_that_no_backend_can_follow_are_refused(whole: nn.Sequential) -> None:
    expected = probabilities(whole, SIZE)[:, ::-1]
    with pytest.raises(ModelError, match="no backend on cpu gives the answers of 32-bit PyTorch"):
        choose_backend(lambda: whole, SIZE, expected, BackendOptions(device="cpu"))


def test_agreement_is_on_every_probability_and_the_best_class() -> None:
    class Fixed:
        name, device, precision = "fixed", "cpu", "bfloat16"
        streams, threads, largest_batch, pads = 1, 1, 4, False

        def __init__(self, found: Scores) -> None:
            self.found = found

        def open(self) -> None: ...

        def keep(self, sizes: Collection[int]) -> None: ...

        def logits(self, pixels: AnyPixels) -> Logits:
            return np.log(self.found)

    def told(*row: float) -> str | None:
        expected = np.array([[0.6, 0.3, 0.1], [0.35, 0.34, 0.31]], np.float32)
        found = expected.copy()
        found[1] = row
        return disagreement(Fixed(found), expected, SIZE)

    assert told(0.35, 0.34, 0.31) is None
    assert told(0.33, 0.35, 0.32) is None  # a change of places among equals
    assert "0.05 off, more than 0.04" in (told(0.40, 0.34, 0.26) or "")
    assert told(float("nan"), 0.34, 0.31) is not None


def test_a_single_threaded_stream_for_each_core_is_the_rule(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {4: 100.0, 2: 105.0, 1: 90.0}
    monkeypatch.setattr(choose, "throughput", lambda backend, *_: rates[backend.streams])
    options = BackendOptions(backend="torch", device="cpu", precision="float32", cores=4)

    def streams() -> int:
        expected = probabilities(whole, SIZE)
        return choose_backend(lambda: whole, SIZE, expected, options).backend.streams

    assert streams() == 4
    rates[2] = 120.0
    assert streams() == 2
    rates[1] = 130.0
    assert streams() == 1


@pytest.mark.parametrize(
    ("beside", "streams"), [(0.0, 4), (0.002, 4), (0.01, 3), (0.02, 2), (0.5, 1)]
)
def test_the_network_gets_the_cores_that_keep_pace_with_the_rest_of_the_work(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch, beside: float, streams: int
) -> None:
    monkeypatch.setattr(choose, "throughput", lambda backend, *_: 100.0)
    options = BackendOptions(backend="torch", device="cpu", precision="float32", cores=4)
    expected = probabilities(whole, SIZE)
    backend = choose_backend(lambda: whole, SIZE, expected, options, lambda: beside).backend
    assert (backend.streams, backend.threads) == (streams, 1)


@pytest.mark.parametrize("device", ["cuda:99", "mps"])
def test_a_device_that_is_not_there_is_told(device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ModelError, match=f"device '{device}' cannot be used here"):
        choose_device(device)


def test_a_backend_that_is_not_there_is_told(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    expected = probabilities(whole, SIZE)
    with pytest.raises(ModelError, match=r"not installed: pip install 'xcit-serve\[openvino\]'"):
        choose_backend(lambda: whole, SIZE, expected, BackendOptions(backend="openvino"))
    backend, reason = choose_backend(lambda: whole, SIZE, expected, BackendOptions(device="cpu"))
    assert backend.name == "torch"
    assert reason == "openvino is not installed; agrees with 32-bit PyTorch"


def test_a_lost_device_is_told_apart_from_a_bad_batch() -> None:
    class Lost(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(DeviceError, match="illegal memory access"):
        TorchBackend(Lost(), CPU, "float32").logits(noise(1))
