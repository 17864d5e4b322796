"""From encoded images to predictions: batching, padding and the self-test."""

import io
import re
import time
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from model.backends.base import Backend, BackendOptions
from model.backends.torch import TorchBackend
from model.checkpoint import write_checkpoint
from model.errors import InvalidTensor, ModelError
from model.families.simplify import Normalise, baseline
from model.families.xcit import XCiT
from model.images.calibration import calibration_image, preprocess_seconds
from model.images.preprocess import AnyPixels, Pixels
from model.inference.classifier import Classifier, load_classifier
from model.inference.saliency import Explainer
from model.scores import Logits
from model.spec import ModelSpec, PreprocessSpec


class FakeBackend:
    """Answers with the mean brightness of each image as the probability of class 0."""

    name, device, precision = "fake", "cpu", "float32"
    streams, threads, largest_batch, pads = 1, 1, 8, True

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.kept: Collection[int] = ()
        self.spoil = False

    def open(self) -> None: ...

    def keep(self, sizes: Collection[int]) -> None:
        self.kept = sizes

    def kernels(self, size: int) -> list[str]:
        return ["mean"]

    def logits(self, pixels: AnyPixels) -> Logits:
        self.sizes.append(len(pixels))
        bright = pixels.mean((1, 2, 3)) / 255
        if self.spoil:
            bright[:] = np.nan
        scores = np.stack((bright, 1 - bright, 0 * bright), -1)
        logits: Logits = np.log(np.maximum(scores, 1e-9)).astype(np.float32)
        return logits


def on(spec: ModelSpec, backend: Backend, max_batch_size: int | None = None) -> Classifier:
    """A classifier without a network for explanations."""
    explainer = Explainer(nn.Identity, spec)
    return Classifier(spec, "0" * 64, backend, explainer, max_batch_size=max_batch_size)


def grey(level: int) -> Pixels:
    return np.full((16, 16, 3), level, np.uint8)


def noise(count: int) -> list[Pixels]:
    generator = np.random.default_rng(0)
    return list(generator.integers(0, 256, (count, 16, 16, 3), np.uint8))


@pytest.fixture
def torch_classifier(spec: ModelSpec, network: XCiT) -> Classifier:
    backend = TorchBackend(baseline(network, spec.preprocess), torch.device("cpu"), "float32")
    return on(spec, backend, max_batch_size=4)


def test_buckets_are_powers_of_two_and_the_maximum(spec: ModelSpec) -> None:
    buckets = [on(spec, FakeBackend(), max_batch_size=n).buckets for n in (1, 4, 6)]
    assert buckets == [(1,), (1, 2, 4), (1, 2, 4, 6)]


def test_batch_is_padded_to_a_warm_bucket_and_padding_is_dropped(spec: ModelSpec) -> None:
    backend = FakeBackend()
    classifier = on(spec, backend, max_batch_size=6)
    rows = classifier.predict([grey(level) for level in (255, 0, 204)], 2)
    assert backend.sizes == [4]
    assert [row.predictions[0].label for row in rows] == ["ant", "bee", "ant"]
    assert rows[2].predictions[0].score == pytest.approx(0.8)
    assert rows[2].probabilities == pytest.approx([0.8, 0.2, 0], abs=1e-6)
    assert classifier.padded_size(5) == 6
    backend.pads = False
    classifier.predict([grey(0)] * 3, 1)
    assert backend.sizes == [4, 3]


def test_every_bucket_is_run_before_timing(spec: ModelSpec) -> None:
    class Reluctant(FakeBackend):
        def logits(self, pixels: AnyPixels) -> Logits:
            if len(pixels) not in self.sizes:
                time.sleep(0.1)  # like a first pass that compiles
            return super().logits(pixels)

    backend = Reluctant()
    classifier = on(spec, backend, max_batch_size=6)
    classifier.open()
    found = classifier.time_batches()
    assert list(found) == [1, 2, 4, 6]
    assert max(found.values()) < 0.05


@pytest.mark.parametrize(("pads", "sizes"), [(True, [1, 2, 4, 6]), (False, [1, 2, 3, 4, 5, 6])])
def test_every_possible_batch_size_is_warmed_up(
    spec: ModelSpec, pads: bool, sizes: list[int]
) -> None:
    backend = FakeBackend()
    backend.pads = pads
    classifier = on(spec, backend, max_batch_size=6)
    classifier.open()
    classifier.warm_up()
    assert sorted(set(backend.sizes)) == sizes


def test_batch_sizes_that_would_be_too_slow_are_not_tried(spec: ModelSpec) -> None:
    class Slow(FakeBackend):
        def logits(self, pixels: AnyPixels) -> Logits:
            time.sleep(0.1 * len(pixels))
            return super().logits(pixels)

    for chosen, sizes in ((None, [1, 2]), (4, [1, 2, 4])):
        backend = Slow()
        classifier = on(spec, backend, chosen)
        classifier.open()
        assert list(classifier.buckets) == sorted(set(backend.sizes)) == sizes


@pytest.mark.parametrize(
    ("timings", "size"),
    [
        ([{1: 1.0, 2: 1.0, 4: 1.0, 8: 1.99}], 4),  # as fast as 8, with half the latency
        ([{1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}], 8),
        ([{1: 1.0, 2: 2.0, 4: 4.0, 8: 9.0}], 1),
        ([{1: 1.0, 2: 1.0, 4: 3.0, 8: 9.0}, {1: 1.0, 2: 1.0, 4: 2.0, 8: 9.0}], 2),
    ],
)
def test_maximum_batch_size_is_the_smallest_that_is_nearly_fastest(
    spec: ModelSpec, timings: list[dict[int, float]], size: int
) -> None:
    backend = FakeBackend()
    classifier = on(spec, backend)
    assert classifier.max_batch_size == backend.largest_batch == 8
    classifier.choose_batch_size(timings)
    assert classifier.max_batch_size == size
    assert backend.kept == classifier.buckets, "memory for sizes that are never run"
    chosen = on(spec, FakeBackend(), max_batch_size=4)
    chosen.choose_batch_size(timings)
    assert chosen.max_batch_size == 4


def test_batch_between_two_buckets_is_divided_if_that_is_faster(spec: ModelSpec) -> None:
    backend = FakeBackend()
    classifier = on(spec, backend, max_batch_size=8)
    classifier.choose_batch_size([{1: 2.0, 2: 3.0, 4: 4.5, 8: 8.0}] * 2)
    rows = classifier.predict([grey(25 * number) for number in range(5)], 2)
    assert backend.sizes == [1, 4]
    shares = [row.probabilities[0] for row in rows]
    assert shares == pytest.approx([25 * number / 255 for number in range(5)], abs=1e-6)
    classifier.predict([grey(0)] * 7, 1)
    assert backend.sizes[2:] == [8]
    assert [classifier.padded_size(count) for count in (3, 5, 6, 7)] == [4, 5, 6, 8]


def test_nan_raises_an_error(spec: ModelSpec) -> None:
    backend = FakeBackend()
    backend.spoil = True
    with pytest.raises(ModelError, match="NaN"):
        on(spec, backend).predict([grey(1)], 1)


def test_self_test_refuses_weights_that_give_nan(spec: ModelSpec) -> None:
    backend = FakeBackend()
    backend.spoil = True
    with pytest.raises(ModelError, match="NaN"):
        on(spec, backend).open()


def test_row_of_a_batch_equals_the_single_image(torch_classifier: Classifier) -> None:
    items = noise(7)
    together = torch_classifier.predict(items, 3)
    for item, rows in zip(items, together, strict=True):
        (alone,) = torch_classifier.predict([item], 3)
        assert [p.class_id for p in rows.predictions] == [p.class_id for p in alone.predictions]
        assert rows.logits == pytest.approx(alone.logits, rel=1e-4)


def test_predictions_match_the_networks_probabilities(
    torch_classifier: Classifier, spec: ModelSpec, network: XCiT
) -> None:
    items = noise(2)
    images = torch.from_numpy(np.stack(items)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (spec.preprocess.mean, spec.preprocess.std))
    with torch.inference_mode():
        expected = network((images - mean) / std)
    for logits, found in zip(expected, torch_classifier.predict(items, 3), strict=True):
        assert found.logits == pytest.approx(logits.numpy(), rel=1e-4, abs=1e-5)
        assert found.probabilities == pytest.approx(logits.softmax(-1).numpy(), rel=1e-4)
        scores = [p.score for p in found.predictions]
        assert scores == sorted(scores, reverse=True)
        for row in found.predictions:
            assert row.score == pytest.approx(found.probabilities[row.class_id], rel=1e-4)
            assert row.label == spec.labels[row.class_id]


def test_normalised_tensor_is_classified_like_its_image_in_a_mixed_batch(
    torch_classifier: Classifier, spec: ModelSpec
) -> None:
    items = noise(3)
    mean, std = np.array(spec.preprocess.mean), np.array(spec.preprocess.std)
    tensors = [((item / 255 - mean) / std).transpose(2, 0, 1).astype("<f4") for item in items]
    mixed: list[AnyPixels] = [items[0]]
    mixed += [torch_classifier.unnormalise(tensor.tobytes()) for tensor in tensors[1:]]
    found = torch_classifier.predict(mixed, 1)
    for one, expected in zip(found, torch_classifier.predict(items, 1), strict=True):
        assert one.logits == pytest.approx(expected.logits, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 101])
def test_tensor_out_of_range_is_refused(torch_classifier: Classifier, value: float) -> None:
    tensor = np.zeros((3, 16, 16), "<f4")
    tensor[1, 2, 3] = value
    with pytest.raises(
        InvalidTensor, match=re.escape(f"the tensor holds {value:g}; normalised pixels")
    ):
        torch_classifier.unnormalise(tensor.tobytes())
    with pytest.raises(InvalidTensor, match="767 numbers; expected 3 x 16 x 16"):
        torch_classifier.unnormalise(tensor.tobytes()[4:])


def test_load_classifier_goes_from_file_to_prediction(
    tmp_path: Any, spec: ModelSpec, network: XCiT
) -> None:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, spec, network.state_dict())
    options = BackendOptions(device="cpu", cores=2, streams=2)
    classifier = load_classifier(path, options=options, max_batch_size=2)
    classifier.open()
    classifier.warm_up()
    assert classifier.backend.streams == 2
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, "PNG")
    (found,) = classifier.predict([classifier.preprocess(buffer.getvalue())], 3)
    assert sum(row.score for row in found.predictions) == pytest.approx(1, abs=1.5e-6)
    assert len(classifier.sha256) == 64


@pytest.mark.parametrize(("serving", "streams"), [(True, 1), (False, 2)])
def test_network_leaves_cores_for_decoding(
    tmp_path: Any,
    spec: ModelSpec,
    network: XCiT,
    monkeypatch: pytest.MonkeyPatch,
    serving: bool,
    streams: int,
) -> None:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, spec, network.state_dict())
    monkeypatch.setattr("model.images.calibration.preprocess_seconds", lambda spec: 9.0)
    monkeypatch.setattr("model.backends.streams.throughput", lambda *_: 100.0)
    options = BackendOptions(device="cpu", cores=2, serving=serving)
    assert load_classifier(path, options=options).backend.streams == streams


def test_calibration_image_has_typical_size() -> None:
    data = calibration_image()
    assert Image.open(io.BytesIO(data)).size == (500, 375)
    assert 80_000 < len(data) < 130_000
    assert 1e-4 < preprocess_seconds(PreprocessSpec(32)) < 0.1


def test_normalise_applies_mean_and_std() -> None:
    spec = PreprocessSpec(1, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    pixels = torch.tensor([[[[255, 255, 0]]]], dtype=torch.uint8)
    assert Normalise(spec)(pixels).flatten().tolist() == pytest.approx([1, 1, -4])


@pytest.mark.parametrize("simd", [True, False])
def test_log_names_pillow_if_it_resizes(
    simd: bool,
    tmp_path: Any,
    spec: ModelSpec,
    network: XCiT,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, spec, network.state_dict())
    monkeypatch.setattr("model.inference.classifier.SIMD", simd)
    caplog.set_level("INFO")
    load_classifier(path, options=BackendOptions(backend="torch", streams=1))
    assert ("images are resized with Pillow" in caplog.text) != simd
