"""The figures of predictions, their buckets, and references."""

import math
from typing import Any

import numpy as np
import pytest

from model.drift import (
    BOUNDS,
    MAX_CLASSES,
    MAX_NAME,
    Figures,
    OtherBuckets,
    Reference,
    brightness_of,
    bucket_of,
    figures_of,
    least_images,
    make_reference,
    profile,
    read_reference,
    scores_of,
    shown_classes,
    stability_index,
)
from model.errors import CheckpointError
from model.scores import ONE, Temperatures, softmax
from tests.dashboard import DEPLOY

RANDOM = np.random.default_rng(0)
WARM: Temperatures = (1.5, ((2.0, 0.7), (4.0, 3.0)))


def figures(class_id: int = 0, score: float = 0.5, **others: Any) -> Figures:
    return Figures(
        **{"entropy": 0.5, "brightness": 0.5, "pixels": 1024, **others},
        class_id=class_id,
        score=score,
    )


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("temperatures", [(0.5, ()), ONE, (3.0, ()), WARM])
def test_score_and_entropy_are_those_of_the_probabilities(
    classes: int, temperatures: Temperatures
) -> None:
    logits = (5 * RANDOM.standard_normal(classes)).astype(np.float32)
    probabilities = softmax(logits, temperatures).astype(float)
    score, entropy = scores_of(logits, temperatures)
    assert score == pytest.approx(probabilities.max(), rel=1e-5)
    expected = -(probabilities * np.log(probabilities + 1e-30)).sum() / math.log(classes)
    assert entropy == pytest.approx(expected, abs=1e-5)


def test_score_and_entropy_of_extreme_logits_are_finite() -> None:
    assert scores_of(np.zeros(10, np.float32), ONE) == pytest.approx((0.1, 1.0))
    assert scores_of(np.array([1e4, -1e4, 0], np.float32), (0.05, ())) == pytest.approx((1.0, 0.0))
    assert scores_of(np.array([3.0], np.float32), ONE) == (1.0, 0.0)


@pytest.mark.parametrize("side", [1, 2, 31, 32, 33, 224, 500])
def test_brightness_is_the_mean_of_what_the_model_sees(side: int) -> None:
    slope = np.linspace(0, 255, side, dtype=np.uint8)
    pixels = np.broadcast_to(slope[:, None, None], (side, side, 3))
    assert brightness_of(pixels) == pytest.approx(pixels.mean() / 255, abs=0.03)
    assert brightness_of(np.full((side, side, 3), 255, np.uint8)) == 1.0
    assert brightness_of(np.zeros((side, side, 3), np.uint8)) == 0.0


def test_brightness_of_a_tensor_is_that_of_the_same_pixels_as_bytes() -> None:
    pixels = RANDOM.integers(0, 256, (32, 32, 3), np.uint8)
    assert brightness_of(pixels.astype(np.float32)) == pytest.approx(brightness_of(pixels))
    assert brightness_of(pixels) == pytest.approx(pixels.mean() / 255), "all of a small image"


@pytest.mark.parametrize(
    ("distribution", "value", "number"),
    [
        *(("score", value, n) for value, n in [(0.0, 0), (0.1, 0), (0.1000001, 1), (1.0, 11)]),
        ("score", 1.0000001, 11),  # rounded up in 32 bits
        ("brightness", -0.2, 0),
        ("brightness", 1.7, 9),  # a client's tensor
        *(("pixels", value, n) for value, n in [(1, 0), (1024, 0), (1025, 1), (4**12, 7)]),
        ("pixels", 4**12 + 1, 8),
    ],
)
def test_bucket_is_the_first_whose_bound_is_not_exceeded(
    distribution: str, value: float, number: int
) -> None:
    assert bucket_of(distribution, value) == number


def test_bounds_ascend() -> None:
    for bounds in BOUNDS.values():
        assert sorted(set(bounds)) == [*bounds]


def test_reference_survives_json() -> None:
    made = make_reference([figures(2), figures(0, 0.95), figures(2)], 3, WARM)
    assert (made.images, made.classes, made.temperatures) == (3, [1, 0, 2], WARM)
    assert sum(made.counts["score"]) == 3
    assert read_reference(made.to_json(), 3) == made


def damaged(**changes: Any) -> dict[str, Any]:
    return {**make_reference([figures(1)], 3).to_json(), **changes}


COUNTS = damaged()["counts"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (damaged(counts=[]), "has no counts of score, entropy, brightness, pixels"),
        (damaged(counts={**COUNTS, "more": [1]}), "has no counts of"),
        (damaged(counts={**COUNTS, "score": [1]}), "score must be 12 numbers of images"),
        (damaged(counts={**COUNTS, "score": [-1] * 12}), "score must be 12 numbers of images"),
        (damaged(counts={**COUNTS, "score": [1] * 12}), "must count the same images"),
        (damaged(classes=[0, 1]), "classes must be 3 numbers of images"),
        (damaged(classes=["1", 0, 0]), "classes must be 3 numbers of images"),
        (damaged(temperature="1"), "its temperatures must be numbers"),
        (damaged(gap_temperatures=[[1.0], "x"]), "its temperatures must be numbers"),
        (damaged(gap_temperatures=7), "its temperatures must be numbers"),
        (make_reference([], 3).to_json(), "must count the same images"),
    ],
)
def test_damaged_reference_is_refused(content: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_reference(content, 3)


def test_reference_of_other_buckets_names_both_versions() -> None:
    with pytest.raises(OtherBuckets, match="has buckets of version 7; this release has 1"):
        read_reference(damaged(buckets=7), 3)


def reference(classes: list[int]) -> Reference:
    return make_reference(
        [figures(i) for i, n in enumerate(classes) for _ in range(n)], len(classes)
    )


def test_all_of_few_classes_are_shown_by_their_labels() -> None:
    found = profile(["cat", "dog"], reference([3, 1]))
    assert (found["classes"], found["other"]) == ([[0, "cat"], [1, "dog"]], False)
    assert (found["reference"]["class"], found["images"]) == ([3, 1], 4)
    assert profile(["cat", "dog"], None)["classes"] == [[0, "cat"], [1, "dog"]]


def test_the_most_frequent_of_many_classes_are_shown_and_the_others_together() -> None:
    counts = [1] * 100 + [2] * 40 + [3] * 60
    found = profile([f"c{i}" for i in range(200)], reference(counts))
    assert [class_id for class_id, _ in found["classes"]] == [*range(140, 190)]
    assert found["other"]
    assert found["reference"]["class"] == [3] * MAX_CLASSES + [sum(counts) - 150]


def test_many_classes_without_a_reference_are_not_shown() -> None:
    found = profile([f"c{i}" for i in range(51)], None)
    assert (found["classes"], found["other"], found["images"]) == ([], False, 0)


def test_names_of_classes_are_short_and_distinct() -> None:
    long = 1000 * "x"
    names = shown_classes(["crane", "crane", "other", f"{long}1", f"{long}2", "b"], None)
    assert len(set(names.values())) == 6
    assert max(map(len, names.values())) <= MAX_NAME + 4
    assert names[0] == "crane #0"
    assert names[2] == "other #2"
    assert names[5] == "b"
    assert len(set(shown_classes(["a", "a", "a #0", "a #0 #2"], None).values())) == 4


def test_stability_index_of_known_distributions() -> None:
    assert stability_index([10, 20, 30], [1, 2, 3]) == 0
    expected = 0.4 * math.log(0.9 / 0.5) - 0.4 * math.log(0.1 / 0.5)
    assert stability_index([1, 1], [9, 1]) == pytest.approx(expected)
    assert stability_index([1, 0], [1, 0]) == 0, "buckets that are empty in both"
    assert stability_index([100, 0], [90, 10]) == pytest.approx(
        0.1 * math.log(1 / 0.9) + 0.099 * math.log(0.1 / 0.001)
    )


@pytest.mark.parametrize(
    ("seen", "index"), [([2, 4, 4], 0.1792), ([6, 3, 1], 1.792), ([1, 9, 0], 4.491)]
)
def test_stability_index_is_that_of_the_rules(seen: list[int], index: float) -> None:
    """The numbers are those of ``deploy/prometheus/drift.test.yml``."""
    assert f"{index}" in (DEPLOY / "prometheus/drift.test.yml").read_text()
    assert stability_index([100, 300, 600], seen) == pytest.approx(index, rel=1e-3)


def test_reference_of_more_classes_needs_more_images() -> None:
    assert [least_images(n) for n in (2, 10, 30, 1000)] == [200, 200, 600, 1000]


def test_figures_come_from_image_and_logits() -> None:
    found = figures_of(np.full((4, 4, 3), 51, np.uint8), 99, np.array([0, 2, 1], np.float32), ONE)
    assert (found.class_id, found.pixels) == (1, 99)
    assert found.brightness == pytest.approx(0.2)
