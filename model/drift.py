"""Distributions of predictions and images, and a reference to compare them with.

The buckets are declared here alone: the metrics of the server count in them, and the reference in a
checkpoint was counted in them.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from model.errors import CheckpointError, show
from model.scores import ONE, Logits, Temperatures, scaled, steps_from_json

VERSION = 1  # of the buckets; a reference of another version is not used
_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Upper bounds of the buckets; a value above the last belongs to the last bucket.
BOUNDS: Mapping[str, tuple[float, ...]] = {
    "score": (*_TENTHS, 0.95, 0.99, 1.0),
    "entropy": (0.01, 0.03, *_TENTHS, 1.0),
    "brightness": (*_TENTHS, 1.0),
    "pixels": (*(float(4**i) for i in range(5, 13)), float("inf")),
}
MAX_CLASSES = 50  # with a bucket each; the others share one
OTHER = "other"
MAX_NAME = 64  # characters of a class in the metrics
GRID = 32  # brightness is the mean of at most about this many rows and columns

MIN_SHARE = 0.001  # of a bucket; see `stability_index`
# With fewer images per bucket, chance alone makes two samples of the same images look different.
MIN_IMAGES = 200
MIN_IMAGES_PER_CLASS = 20


class Figures(NamedTuple):
    """The numbers that are counted for one classified image.

    Attributes:
        score: probability of the best class.
        entropy: of the probabilities of all classes, from 0 to 1, the entropy of a uniform one.
        brightness: mean of the image as the model sees it, from black, 0, to white, 1.
        pixels: width times height of the image file; ``None`` for a tensor.
    """

    class_id: int
    score: float
    entropy: float
    brightness: float
    pixels: int | None


def scores_of(logits: Logits, temperatures: Temperatures) -> tuple[float, float]:
    """The score and the entropy in `Figures` of logits ``(classes,)``."""
    below = scaled(logits, temperatures)
    powers = np.exp(below)
    total = float(np.add.reduce(powers))
    if len(logits) == 1:
        return 1.0, 0.0
    entropy = np.log(total) - float(np.dot(powers, below)) / total
    return 1 / total, float(entropy / np.log(len(logits)))


def brightness_of(pixels: NDArray[Any]) -> float:
    """The brightness in `Figures` of pixels ``(h, w, 3)``, from a grid of at most 32 x 32 of them.

    The grid keeps the cost the same for all image sizes.
    """
    step = -(-len(pixels) // GRID)
    seen = pixels[::step, ::step]
    dtype = np.float32 if seen.dtype == np.float32 else np.uint32
    return float(np.add.reduce(seen, axis=None, dtype=dtype)) / (255 * seen.size)


def figures_of(
    seen: NDArray[Any], pixels: int | None, logits: Logits, temperatures: Temperatures
) -> Figures:
    """The figures of an image from the model's input, the size of its file, and its logits."""
    score, entropy = scores_of(logits, temperatures)
    return Figures(int(logits.argmax()), score, entropy, brightness_of(seen), pixels)


def bucket_of(distribution: str, value: float) -> int:
    """The number of the bucket of a value."""
    bounds = BOUNDS[distribution]
    return min(bisect_left(bounds, value), len(bounds) - 1)


@dataclass(frozen=True, slots=True)
class Reference:
    """The distributions over the images of a validation folder.

    Attributes:
        temperatures: of the scores; see `model.spec.ModelSpec`.
        counts: images in each bucket, by distribution.
        classes: images by predicted class.
    """

    temperatures: Temperatures
    counts: Mapping[str, Sequence[int]]
    classes: Sequence[int]

    @property
    def images(self) -> int:
        return sum(self.classes)

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `read_reference` reads."""
        return {
            "buckets": VERSION,
            "temperature": self.temperatures[0],
            "gap_temperatures": [[*step] for step in self.temperatures[1]],
            "counts": {name: [*counts] for name, counts in self.counts.items()},
            "classes": [*self.classes],
        }


def make_reference(
    figures: Sequence[Figures], classes: int, temperatures: Temperatures = ONE
) -> Reference:
    """The distributions of the figures of a model with ``classes`` classes."""
    counts = {}
    for name, bounds in BOUNDS.items():
        found = Counter(bucket_of(name, getattr(each, name)) for each in figures)
        counts[name] = [found[number] for number in range(len(bounds))]
    predicted = Counter(each.class_id for each in figures)
    return Reference(temperatures, counts, [predicted[number] for number in range(classes)])


def distances(reference: Reference, seen: Reference) -> dict[str, float]:
    """The stability index of each distribution, as the rules of Prometheus compute it."""
    found = {
        name: stability_index(counts, seen.counts[name])
        for name, counts in reference.counts.items()
    }
    shown = profile([""] * len(reference.classes), reference)
    expected, classes = shown["reference"]["class"], [class_id for class_id, _ in shown["classes"]]
    actual = [seen.classes[class_id] for class_id in classes]
    if shown["other"]:
        actual.append(seen.images - sum(actual))
    return {**found, "class": stability_index(expected, actual)}


def least_images(classes: int) -> int:
    """The number of images that a reference needs."""
    return max(MIN_IMAGES, MIN_IMAGES_PER_CLASS * min(classes, MAX_CLASSES))


class OtherBuckets(ValueError):
    """A reference was counted in other buckets than those of this release."""


def read_reference(content: Mapping[str, Any], classes: int) -> Reference:
    """The reference that `Reference.to_json` wrote, for a model with ``classes`` classes.

    Raises:
        CheckpointError: the numbers are not those of a reference.
        OtherBuckets: see there; the message names both versions.
    """
    version = content.get("buckets")
    if version != VERSION:
        raise OtherBuckets(f"has buckets of version {show(version)}; this release has {VERSION}")
    expected = {name: len(bounds) for name, bounds in BOUNDS.items()}
    counts: Any = content.get("counts")
    predicted: Any = content.get("classes")
    if not isinstance(counts, dict) or counts.keys() != expected.keys():
        raise CheckpointError(f"its reference has no counts of {', '.join(expected)}")
    sizes = {**expected, "classes": classes}
    totals = set()
    for name, numbers in {**counts, "classes": predicted}.items():
        whole = isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)
        if not whole or len(numbers) != sizes[name]:
            raise CheckpointError(
                f"its reference is damaged: {name} must be {sizes[name]} numbers of images"
            )
        totals.add(sum(numbers))
    if len(totals) > 1 or 0 in totals:
        raise CheckpointError(
            "its reference is damaged: each distribution must count the same images"
        )
    return Reference(_read_temperatures(content), counts, predicted)


def _read_temperatures(content: Mapping[str, Any]) -> Temperatures:
    first, steps = content.get("temperature"), content.get("gap_temperatures")
    numbers = [first]
    if isinstance(steps, list):
        steps = steps_from_json(steps)
        numbers += [n for step in steps for n in (step if isinstance(step, tuple) else [None])]
    if not isinstance(steps, tuple) or any(type(n) not in (int, float) for n in numbers):
        raise CheckpointError("its reference is damaged: its temperatures must be numbers")
    return cast(Temperatures, (first, steps))


def shown_classes(labels: Sequence[str], reference: Reference | None) -> dict[int, str]:
    """The classes that have a bucket, by class id, with a distinct and short name each.

    They are all classes, or the most frequent ones of the reference; without one, none of many.
    """
    if len(labels) <= MAX_CLASSES:
        chosen: Sequence[int] = range(len(labels))
    elif reference:
        by_count = sorted(range(len(labels)), key=lambda i: (-reference.classes[i], i))
        chosen = sorted(by_count[:MAX_CLASSES])
    else:
        return {}
    short = {i: labels[i][:MAX_NAME] for i in chosen}
    times = Counter([*short.values(), OTHER])
    named = {i: name if times[name] == 1 else f"{name} #{i}" for i, name in short.items()}
    if len(set(named.values())) < len(named):  # a label ends in such a number
        named = {i: f"{name} #{i}" for i, name in short.items()}
    return named


def profile(labels: Sequence[str], reference: Reference | None) -> dict[str, Any]:
    """The classes and buckets of the metrics, and the reference, as JSON.

    Returns:
        ``bounds`` of the buckets by distribution; ``classes``, the id and name of each class that
        has a bucket; ``other``, whether other classes have one; and ``images`` of the reference
        with its ``reference``, the images in each bucket by distribution.
    """
    shown = shown_classes(labels, reference)
    other = bool(shown) and len(shown) < len(labels)
    found: dict[str, Any] = {
        "bounds": {name: [*bounds] for name, bounds in BOUNDS.items()},
        "classes": [[class_id, name] for class_id, name in shown.items()],
        "other": other,
        "images": reference.images if reference else 0,
        "reference": {},
    }
    if reference:
        predicted = [reference.classes[class_id] for class_id in shown]
        if other:
            predicted.append(reference.images - sum(predicted))
        found["reference"] = {**{k: [*v] for k, v in reference.counts.items()}, "class": predicted}
    return found


def stability_index(reference: Sequence[int], seen: Sequence[int]) -> float:
    """The population stability index (PSI) of images by bucket: 0 for the same distribution.

    A share below `MIN_SHARE` counts as `MIN_SHARE`, as in the rules of Prometheus.
    """
    expected, actual = (
        np.maximum(np.array(counts, float) / max(1, sum(counts)), MIN_SHARE)
        for counts in (reference, seen)
    )
    return float(((actual - expected) * np.log(actual / expected)).sum())
