"""Encoded images to predictions: batching, padding, self-test, and the torch backend's choices."""

import io
import time
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.backends.base import ClassIds, Scores
from model.backends.choose import BackendOptions
from model.backends.torch import TorchBackend
from model.checkpoint import write_checkpoint
from model.classifier import Classifier, load_classifier
from model.errors import ModelError
from model.normalise import Normalise
from model.preprocess import Pixels
from model.simplify import plain
from model.spec import ModelSpec, PreprocessSpec
from model.xcit import XCiT


class FakeBackend:
    """Answers with the mean brightness of each image as the score of class 0."""

    name, device, precision, streams, threads, pads = "fake", "cpu", "float32", 1, 1, True

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.spoil = False

    def open(self) -> None: ...

    def classify(self, pixels: Pixels, top_k: int) -> tuple[Scores, ClassIds]:
        self.sizes.append(len(pixels))
        bright = (pixels.mean((1, 2, 3)) / 255).astype(np.float32)
        if self.spoil:
            bright[:] = np.nan
        scores = np.stack((bright, 1 - bright, 0 * bright), -1)
        ids = (-scores).argsort(-1, kind="stable")[:, :top_k]
        best: Scores = np.take_along_axis(scores, ids, -1).astype(np.float32)
        return best, ids.astype(np.int64)


def grey(level: int) -> Pixels:
    return np.full((16, 16, 3), level, np.uint8)


def noise(count: int) -> list[Pixels]:
    generator = np.random.default_rng(0)
    return list(generator.integers(0, 256, (count, 16, 16, 3), np.uint8))


@pytest.fixture
def torch_classifier(spec: ModelSpec, network: XCiT) -> Classifier:
    backend = TorchBackend(plain(network, spec.preprocess), torch.device("cpu"), "float32")
    return Classifier(spec, "0" * 64, backend, max_batch_size=4)


def test_buckets_are_powers_of_two_and_the_maximum(spec: ModelSpec) -> None:
    buckets = [Classifier(spec, "", FakeBackend(), max_batch_size=n).buckets for n in (1, 4, 6)]
    assert buckets == [(1,), (1, 2, 4), (1, 2, 4, 6)]


def test_a_batch_is_padded_to_a_warm_bucket_and_padding_is_dropped(spec: ModelSpec) -> None:
    backend = FakeBackend()
    classifier = Classifier(spec, "", backend, max_batch_size=6)
    rows = classifier.predict([grey(level) for level in (255, 0, 204)], 2)
    assert backend.sizes == [4]
    assert [row[0].label for row in rows] == ["ant", "bee", "ant"]
    assert rows[2][0].score == pytest.approx(0.8)
    assert classifier.padded_size(5) == 6
    backend.pads = False
    classifier.predict([grey(0)] * 3, 1)
    assert backend.sizes == [4, 3]


def test_every_bucket_is_run_before_it_is_timed(spec: ModelSpec) -> None:
    backend = FakeBackend()
    found = Classifier(spec, "", backend, max_batch_size=6).time_batches()
    assert backend.sizes == [1, 1, 2, 2, 4, 4, 6, 6, *2 * [1, 2, 4, 6]]
    assert list(found) == [1, 2, 4, 6]


@pytest.mark.parametrize(("pads", "sizes"), [(True, [1, 2, 4, 6]), (False, [1, 2, 3, 4, 5, 6])])
def test_every_size_that_is_to_come_is_warm(spec: ModelSpec, pads: bool, sizes: list[int]) -> None:
    backend = FakeBackend()
    backend.pads = pads
    Classifier(spec, "", backend, max_batch_size=6).warm_up()
    assert sorted(set(backend.sizes)) == sizes


def test_batches_that_would_hold_callers_for_long_are_not_even_tried(spec: ModelSpec) -> None:
    class Slow(FakeBackend):
        def classify(self, pixels: Pixels, top_k: int) -> tuple[Scores, ClassIds]:
            time.sleep(0.04 * len(pixels))
            return super().classify(pixels, top_k)

    assert list(Classifier(spec, "", Slow()).time_batches()) == [1, 2]
    assert list(Classifier(spec, "", Slow(), max_batch_size=4).time_batches()) == [1, 2, 4]


@pytest.mark.parametrize(
    ("timings", "size"),
    [
        ([{1: 1.0, 2: 1.0, 4: 1.0, 8: 1.99}], 4),  # as good as 8, and callers wait half as long
        ([{1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}], 8),
        ([{1: 1.0, 2: 2.0, 4: 4.0}], 1),
        ([{1: 1.0, 2: 1.0, 4: 4.0}, {1: 1.0, 2: 1.0}], 2),
    ],
)
def test_the_smallest_batch_that_is_nearly_fastest_is_the_largest_that_is_run(
    spec: ModelSpec, timings: list[dict[int, float]], size: int
) -> None:
    classifier = Classifier(spec, "", FakeBackend())
    assert classifier.max_batch_size == 16
    classifier.settle(timings)
    assert classifier.max_batch_size == size
    chosen = Classifier(spec, "", FakeBackend(), max_batch_size=3)
    chosen.settle(timings)
    assert chosen.max_batch_size == 3


def test_nan_is_an_error_and_no_answer(spec: ModelSpec) -> None:
    backend = FakeBackend()
    backend.spoil = True
    with pytest.raises(ModelError, match="NaN"):
        Classifier(spec, "", backend).predict([grey(1)], 1)


def test_self_test_refuses_what_is_no_distribution(spec: ModelSpec) -> None:
    class Halves(FakeBackend):
        def classify(self, pixels: Pixels, top_k: int) -> tuple[Scores, ClassIds]:
            scores, ids = super().classify(pixels, top_k)
            return (scores / 2).astype(np.float32), ids

    with pytest.raises(ModelError, match=r"probabilities add up to 0\.500, not 1"):
        Classifier(spec, "", Halves()).open()


def test_a_batch_row_equals_the_image_alone(torch_classifier: Classifier) -> None:
    items = noise(7)
    together = torch_classifier.predict(items, 3)
    for item, rows in zip(items, together, strict=True):
        (alone,) = torch_classifier.predict([item], 3)
        assert [p.class_id for p in rows] == [p.class_id for p in alone]
        assert [p.score for p in rows] == pytest.approx([p.score for p in alone], rel=1e-4)


def test_predictions_are_the_networks_probabilities(
    torch_classifier: Classifier, spec: ModelSpec, network: XCiT
) -> None:
    items = noise(2)
    images = torch.from_numpy(np.stack(items)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (spec.preprocess.mean, spec.preprocess.std))
    with torch.inference_mode():
        expected = network((images - mean) / std).softmax(-1)
    for probabilities, rows in zip(expected, torch_classifier.predict(items, 3), strict=True):
        assert [p.score for p in rows] == sorted((p.score for p in rows), reverse=True)
        for row in rows:
            assert row.score == pytest.approx(probabilities[row.class_id].item(), rel=1e-4)
            assert row.label == spec.labels[row.class_id]


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
    (rows,) = classifier.predict([classifier.preprocess(buffer.getvalue())], 3)
    assert sum(row.score for row in rows) == pytest.approx(1)
    assert len(classifier.sha256) == 64


def test_normalise_is_the_specs_mean_and_std() -> None:
    spec = PreprocessSpec(1, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    pixels = torch.tensor([[[[255, 255, 0]]]], dtype=torch.uint8)
    assert Normalise(spec)(pixels).flatten().tolist() == pytest.approx([1, 1, -4])
