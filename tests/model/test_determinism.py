"""Deterministic mode: an image has the same bits in every batch, on each backend of a CPU."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import count, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from app.loading import ServedClassifier
from app.processes.models import check_fingerprints
from app.serving.errors import StartupError
from model.backends import determinism
from model.backends.agreement import probabilities
from model.backends.base import BackendOptions
from model.backends.choose import Choice, choose_backend
from model.backends.determinism import PASSES, Proof, prove
from model.backends.openvino import OpenVINOBackend
from model.backends.torch import fastest_precision
from model.checkpoint import BUNDLED_CHECKPOINT
from model.errors import ModelError
from model.families.simplify import simplify_published, simplify_vit_pytorch
from model.families.xcit import XCiT
from model.families.xcit_published import PublishedXCiT
from model.images.preprocess import AnyPixels, Pixels
from model.inference.classifier import Classifier, load_classifier
from model.inference.saliency import Explainer
from model.scores import Logits
from model.spec import ModelSpec, PreprocessSpec

from .conftest import HYPERPARAMETERS
from .published import realistic_weights
from .test_classifier import FakeBackend
from .test_xcit_published import TINY

pytestmark = pytest.mark.usefixtures("_threads")

SIZE = 32
WIDE = HYPERPARAMETERS | {
    "image_size": SIZE,
    "num_classes": 7,
    "dim": 64,
    "dim_head": 32,
    "mlp_dim": 128,
}
MOST = 20  # images of a batch, which is more than any backend computes at once
BF16 = fastest_precision(torch.device("cpu")) == "bfloat16"
PRECISIONS = ["float32", *(["bfloat16"] if BF16 else [])]


CASES = [
    *(
        pytest.param(
            family,
            backend,
            precision,
            marks=() if (family, precision) == ("vit", PRECISIONS[-1]) else pytest.mark.thorough,
        )
        for family, backend, precision in product(
            ("vit", "published"), ("openvino", "torch"), PRECISIONS
        )
    ),
    pytest.param("bundled", "openvino", PRECISIONS[-1], marks=pytest.mark.thorough),
]


def vit(**shape: int) -> nn.Sequential:
    network = XCiT(**(WIDE | shape)).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    return simplify_vit_pytorch(network, PreprocessSpec(SIZE))


def published() -> nn.Sequential:
    network = PublishedXCiT(**TINY).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    return simplify_published(network, PreprocessSpec(SIZE))


def chosen(network: Callable[[], nn.Sequential], **options: object) -> Choice:
    found = BackendOptions(device="cpu", deterministic=True, **options)  # type: ignore[arg-type]
    return choose_backend(network, SIZE, probabilities(network(), SIZE), found)


@cache
def classifier(family: str, backend: str, precision: str, device: str = "cpu") -> Classifier:
    """A classifier in deterministic mode, opened and measured as at the start of a server."""
    options = BackendOptions(
        backend=backend, device=device, precision=precision, deterministic=True, streams=1
    )
    if family == "bundled":
        found = load_classifier(BUNDLED_CHECKPOINT, options=options)
    else:
        network = {"vit": vit, "published": published}[family]
        choice = choose_backend(network, SIZE, probabilities(network(), SIZE), options)
        classes = TINY["num_classes"] if family == "published" else 7
        spec = ModelSpec(
            name="small",
            version="1",
            family="vit_pytorch",
            hyperparameters=HYPERPARAMETERS,
            preprocess=PreprocessSpec(SIZE),
            labels=tuple(map(str, range(classes))),
        )
        found = Classifier(
            spec, "0" * 64, choice.backend, Explainer(nn.Identity, spec), proof=choice.proof
        )
    found.open()
    found.choose_batch_size([found.time_batches()])
    found.warm_up()
    return found


def images(seed: int, amount: int, size: int) -> Pixels:
    """Noise of any contrast and brightness."""
    chance = np.random.default_rng(seed)
    low, high = np.sort(chance.random((2, amount, 1, 1, 1)), 0)
    noise = low + (high - low) * chance.random((amount, size, size, 3))
    pixels: Pixels = (255 * noise).astype(np.uint8)
    return pixels


@pytest.mark.parametrize(("family", "backend", "precision"), CASES)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, MOST), min_size=1, max_size=4))
def test_logits_are_the_same_bits_in_any_batch_at_any_position(
    family: str, backend: str, precision: str, seed: int, cuts: list[int]
) -> None:
    check_bits(classifier(family, backend, precision), seed, cuts)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "auto"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, MOST), min_size=1, max_size=4))
def test_logits_on_a_gpu_are_the_same_bits_in_any_batch_at_any_position(
    precision: str, seed: int, cuts: list[int]
) -> None:
    check_bits(classifier("bundled", "torch", precision, "cuda"), seed, cuts)


def check_bits(served: Classifier, seed: int, cuts: Sequence[int]) -> None:
    """Compare images alone and in batches of the sizes ``cuts``, at random positions."""
    items = list(images(seed, MOST, served.spec.preprocess.image_size))
    alone = [served.logits([item])[0].tobytes() for item in items]
    order = np.random.default_rng(seed)
    for size in cuts:
        rows = order.permutation(MOST)[:size]
        together = served.logits([items[row] for row in rows])
        assert [row.tobytes() for row in together] == [alone[row] for row in rows]


@pytest.mark.thorough
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("network", [vit, published])
def test_every_batch_size_of_openvino_gives_the_same_bits(
    network: Callable[[], nn.Sequential], precision: str
) -> None:
    """Without deterministic mode, too: this is why it costs nothing with OpenVINO."""
    proof = chosen(network, backend="openvino", precision=precision).proof
    assert proof is not None
    assert proof.sizes == (1, 2, 4, 8)


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_number_of_streams_does_not_change_a_bit(backend: str) -> None:
    """Engines and commands differ in it."""
    pixels = images(0, 1, SIZE)
    found, fingerprints = set(), set()
    for streams, cores in ((1, 1), (2, 2), (1, 4)):
        choice = chosen(
            vit, backend=backend, precision=PRECISIONS[-1], streams=streams, cores=cores
        )
        assert choice.backend.threads == 1
        choice.backend.open()
        found.add(choice.backend.logits(pixels).tobytes())
        assert choice.proof is not None
        fingerprints.add(choice.proof.fingerprint)
    assert len(found) == len(fingerprints) == 1


# --- Backends with faults -------------------------------------------------------------------------


class Exact(FakeBackend):
    """Answers with sums of the pixels, which do not depend on the batch."""

    def logits(self, pixels: AnyPixels) -> Logits:
        self.sizes.append(len(pixels))
        return pixels[:, 0, :3, 0].astype(np.float32) / np.float32(7)


class MixesRows(Exact):
    """As if the range of the whole batch were used to round each image."""

    def logits(self, pixels: AnyPixels) -> Logits:
        return super().logits(pixels) + np.float32(pixels.max(initial=0) / 2**20)


class LastRowDiffers(Exact):
    """As if the last rows of a batch went through another kernel."""

    reach = 3

    def logits(self, pixels: AnyPixels) -> Logits:
        found = super().logits(pixels)
        if len(found) > self.reach:
            found[-1] = np.nextafter(found[-1], np.float32(np.inf))
        return found


class Drifts(Exact):
    """As if two threads raced for the order of a sum."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = count()

    def logits(self, pixels: AnyPixels) -> Logits:
        return super().logits(pixels) + np.float32(next(self._calls) / 2**20)


def test_sizes_that_give_other_bits_are_not_used() -> None:
    proof = prove(LastRowDiffers(), SIZE)
    assert isinstance(proof, Proof)
    assert proof.sizes == (1, 2)
    assert str(proof) == "deterministic in batches of 1, 2"


def test_every_position_of_every_size_is_compared() -> None:
    backend = Exact()
    proof = prove(backend, SIZE, 6)
    assert isinstance(proof, Proof)
    assert proof.sizes == (1, 2, 4, 6)
    assert [backend.sizes.count(size) for size in (2, 4, 6)] == [PASSES] * 3


def test_image_that_depends_on_its_companions_is_found() -> None:
    proof = prove(MixesRows(), SIZE)
    assert isinstance(proof, Proof)
    assert proof.sizes == (1,), "an image alone has no companions"


@pytest.mark.parametrize(
    ("kernels", "sizes"),
    [
        (lambda size: ["gemm", "softmax"], (1, 2, 4, 8)),
        (lambda size: ["gemv" if size == 1 else "gemm", "softmax"], (1,)),
        (lambda size: ["gemm" if size < 8 else "blocked gemm"], (1, 2, 4)),
        (lambda size: None, (1,)),
    ],
)
def test_sizes_need_the_same_kernels_in_16_bits(
    kernels: Callable[[int], list[str] | None], sizes: tuple[int, ...]
) -> None:
    """Rounding hides a difference of kernels in most images."""
    backend = Exact()
    backend.precision = "bfloat16"
    backend.kernels = kernels  # type: ignore[assignment]
    proof = prove(backend, SIZE)
    assert isinstance(proof, Proof)
    assert proof.sizes == sizes
    backend.precision = "float32"
    proof = prove(backend, SIZE)
    assert isinstance(proof, Proof)
    assert proof.sizes == (1, 2, 4, 8)


@pytest.mark.thorough
@pytest.mark.skipif(not BF16, reason="the kernels differ with AMX")
def test_narrow_class_layers_use_other_kernels_for_one_image() -> None:
    proof = chosen(partial(vit, dim=40, dim_head=8), backend="openvino", precision="bfloat16").proof
    assert proof is not None
    assert proof.sizes == (1,)


def test_result_that_is_never_the_same_is_refused() -> None:
    fault = prove(Drifts(), SIZE)
    assert isinstance(fault, str)
    assert fault.startswith("at position 0 of a batch of 1, the logits of an image differ by ")


@pytest.mark.parametrize(("largest", "sizes"), [(None, (16, 32, 64)), (32, (16, 32)), (6, (6,))])
def test_reference_on_a_gpu_holds_several_images(
    largest: int | None, sizes: tuple[int, ...]
) -> None:
    class Gpu(Exact):
        device, largest_batch = "cuda:0", 64

        def logits(self, pixels: AnyPixels) -> Logits:
            return super().logits(pixels) + (len(pixels) in {1, 2, 4, 8}) * np.float32(2**-10)

    proof = prove(Gpu(), SIZE, largest)
    assert isinstance(proof, Proof)
    assert proof.sizes == sizes


def test_fault_of_the_last_row_on_a_gpu_is_refused_with_one_line() -> None:
    class Gpu(LastRowDiffers):
        device, largest_batch = "cuda", 64

    assert prove(Gpu(), SIZE) == (
        "at position 15 of a batch of 16, the logits of an image differ by 1.9e-06 from those in a "
        "batch of 16 copies"
    )


@pytest.fixture
def unstable(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO as if its threads raced."""
    calls = count()

    class Unstable(OpenVINOBackend):
        def logits(self, pixels: AnyPixels) -> Logits:
            return super().logits(pixels) + np.float32(next(calls) / 2**20)

    monkeypatch.setattr("model.backends.openvino.OpenVINOBackend", Unstable)


@pytest.mark.usefixtures("unstable")
def test_backend_that_is_not_deterministic_is_replaced_by_the_next(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    choice = chosen(vit, precision="float32")
    assert choice.backend.name == "torch"
    refusal = "not openvino in float32 on cpu: not deterministic: at position 0 of a batch of 1, "
    assert refusal in choice.reason
    assert "agrees with 32-bit PyTorch; deterministic in batches of 1" in choice.reason
    assert "backend openvino in float32 on cpu is not used: not deterministic" in caplog.text


@pytest.mark.usefixtures("unstable")
def test_named_backend_that_is_not_deterministic_is_refused() -> None:
    with pytest.raises(ModelError, match="no backend can run this model: not openvino in float32"):
        chosen(vit, backend="openvino", precision="float32")
    options = BackendOptions(backend="openvino", device="cpu", precision="float32")
    choice = choose_backend(vit, SIZE, probabilities(vit(), SIZE), options)
    assert choice.proof is None, "the mode is off by default"


# --- The classifier -------------------------------------------------------------------------------


def proven(
    spec: ModelSpec, sizes: Sequence[int], max_batch_size: int | None = None
) -> tuple[Classifier, Exact]:
    backend = Exact()
    proof = prove(backend, spec.preprocess.image_size)
    assert isinstance(proof, Proof)
    proof = Proof(tuple(sizes), proof.reference, proof.images, proof.expected)
    explainer = Explainer(nn.Identity, spec)
    found = Classifier(
        spec, "0" * 64, backend, explainer, max_batch_size=max_batch_size, proof=proof
    )
    return found, backend


@pytest.mark.parametrize("pads", [True, False])
def test_only_proven_sizes_are_run(spec: ModelSpec, pads: bool) -> None:
    served, backend = proven(spec, (2, 4), max_batch_size=6)
    backend.pads = pads
    assert (served.max_batch_size, served.buckets) == (4, (2, 4))
    backend.sizes.clear()
    served.open()
    for amount in (1, 3, 9):
        served.logits(list(images(0, amount, 16)))
    served.choose_batch_size([served.time_batches()])
    served.warm_up()
    for amount in range(1, 10):
        assert len(served.logits(list(images(0, amount, 16)))) == amount
    assert set(backend.sizes) == {2, 4}


def test_thread_that_computes_other_bits_ends_the_start(spec: ModelSpec) -> None:
    served, backend = proven(spec, (1, 2))
    served.open()
    served.choose_batch_size([served.time_batches()])
    served.warm_up()
    exact = backend.logits
    backend.logits = lambda pixels: exact(pixels) + np.float32(2**-20)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"^not deterministic: at position 0 of a batch of 1, "):
        served.warm_up()
    with pytest.raises(StartupError, match=r"^not deterministic: "):
        ServedClassifier(served).warm_up()


def test_info_says_whether_the_model_is_deterministic(spec: ModelSpec) -> None:
    served, backend = proven(spec, (1, 2))
    info = ServedClassifier(served).info
    assert (info.deterministic, len(info.fingerprint)) == (True, 16)
    plain = ServedClassifier(Classifier(spec, "0" * 64, backend, Explainer(nn.Identity, spec)))
    assert (plain.info.deterministic, plain.info.fingerprint) == (False, "")


def test_engines_with_other_logits_end_the_start(spec: ModelSpec) -> None:
    served, _ = proven(spec, (1, 2))
    info = ServedClassifier(served).info
    check_fingerprints([info])
    check_fingerprints([info, info])
    other = replace(info, device="cuda:1", fingerprint="0" * 16)
    with pytest.raises(StartupError, match=r"^not deterministic: engine 1 \(fake on cuda:1\) com"):
        check_fingerprints([info, other])


def test_libraries_of_a_gpu_repeat_their_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_DETERMINISTIC", "0")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    called = []
    monkeypatch.setattr("model.backends.build.repeat_algorithms", lambda: called.append(1))
    chosen(vit, backend="torch", precision="float32")
    assert not called, "it is for CUDA devices"
    determinism.repeat_algorithms()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
