"""Metrics of predictions, with the distributions of a reference to compare them with."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

SHOWN_DIGITS = 12  # of the SHA-256 of a checkpoint
KEPT_MODELS = 3  # requests admitted before a reload are counted for the model that they used
HISTOGRAMS = {
    "score": ("xcit_prediction_score", "Score of the predicted class."),
    "entropy": (
        "xcit_prediction_entropy",
        "Entropy of the scores of all classes, as a share of the largest possible one.",
    ),
    "brightness": (
        "xcit_image_brightness",
        "Mean of the classified image as the model sees it, from 0 for black to 1 for white.",
    ),
    "pixels": ("xcit_image_pixels", "Width times height of the classified image file."),
}
OTHER = "other"


class ModelCounts:
    """Predictions of one model.

    Args:
        profile: names the classes and the bounds of the buckets; see `model.drift.profile`.
    """

    def __init__(self, profile: Mapping[str, Any]) -> None:
        self.profile = profile
        self.bounds: Mapping[str, Sequence[float]] = profile["bounds"]
        self.counts = {name: [0] * len(bounds) for name, bounds in self.bounds.items()}
        self.sums = dict.fromkeys(self.bounds, 0.0)
        names = dict(profile["classes"])
        self._places = {class_id: place for place, class_id in enumerate(names)}
        self._other = len(names) if profile["other"] else None
        self.classes = [*names.values(), *([OTHER] if profile["other"] else [])]
        self.predicted = [0] * len(self.classes)

    def add(
        self, class_id: int, score: float, entropy: float, brightness: float, pixels: int | None
    ) -> None:
        """Count a prediction; see `app.serving.classifier.Figures`."""
        self._add("score", score)
        self._add("entropy", entropy)
        self._add("brightness", brightness)
        if pixels is not None:
            self._add("pixels", pixels)
        place = self._places.get(class_id, self._other)
        if place is not None:
            self.predicted[place] += 1

    def _add(self, name: str, value: float) -> None:
        counts = self.counts[name]
        counts[min(bisect_left(self.bounds[name], value), len(counts) - 1)] += 1
        self.sums[name] += value


class PredictionCollector(Collector):
    """Counts predictions by model, and shows the reference of the one that serves."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, ModelCounts] = OrderedDict()
        self._current = ""

    def show_model(self, sha256: str, profile: Mapping[str, Any]) -> None:
        """Count the predictions of a model, and show its reference, from now on.

        Args:
            sha256: of its checkpoint.
        """
        self._current = checkpoint = sha256[:SHOWN_DIGITS]
        known = self._models.get(checkpoint)
        if known is None or known.profile != profile:
            self._models[checkpoint] = ModelCounts(profile)
        self._models.move_to_end(checkpoint)
        while len(self._models) > KEPT_MODELS:
            self._models.popitem(last=False)

    def count(self, predictions: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Count the predictions of a request; see `app.serving.timings.Timings`."""
        for checkpoint, figures in predictions:
            if model := self._models.get(checkpoint[:SHOWN_DIGITS]):
                model.add(*figures)

    def collect(self) -> Iterator[Metric]:
        for name, (metric, text) in HISTOGRAMS.items():
            yield self._histogram(name, metric, text)
        classes = CounterMetricFamily(
            "xcit_predicted_class",
            "Predictions by class; of more than 50 classes, those most frequent in the reference.",
            labels=["checkpoint", "class"],
        )
        for checkpoint, model in self._models.items():
            for name, count in zip(model.classes, model.predicted, strict=True):
                classes.add_metric([checkpoint, name], count)
        yield classes
        yield from self._reference()

    def _histogram(self, name: str, metric: str, text: str) -> Metric:
        family = HistogramMetricFamily(metric, text, labels=["checkpoint"])
        for checkpoint, model in self._models.items():
            totals = [*accumulate(model.counts[name])]
            buckets = [*zip(map(floatToGoString, model.bounds[name]), totals, strict=True)]
            if buckets[-1][0] != "+Inf":
                buckets.append(("+Inf", totals[-1]))
            family.add_metric([checkpoint], buckets, model.sums[name])
        return family

    def _reference(self) -> Iterator[Metric]:
        images = GaugeMetricFamily(
            "xcit_reference_images",
            "Images of the reference in the checkpoint; 0 without one.",
            labels=["checkpoint"],
        )
        buckets = GaugeMetricFamily(
            "xcit_reference_bucket_images",
            "Images of the reference by bucket of each distribution: above one bound, up to "
            "another; or by class.",
            labels=["checkpoint", "distribution", "above", "upto", "class"],
        )
        if model := self._models.get(self._current):
            images.add_metric([self._current], model.profile["images"])
            for row, count in _reference_rows(model):
                buckets.add_metric([self._current, *row], count)
        yield from (images, buckets)


def _reference_rows(model: ModelCounts) -> Iterator[tuple[tuple[str, str, str, str], int]]:
    """Distribution, bounds and class of each bucket of the reference, with its images."""
    for name, counts in model.profile["reference"].items():
        if name == "class":
            for label, count in zip(model.classes, counts, strict=True):
                yield (name, "", "", label), count
        else:
            bounds = ["-Inf", *map(floatToGoString, model.bounds[name])]
            for above, upto, count in zip(bounds, bounds[1:], counts, strict=False):
                yield (name, above, upto, ""), count
