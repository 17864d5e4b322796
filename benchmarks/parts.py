"""The cost of preprocessing and inference alone, on one thread, without a server.

They are measured before and after each load and averaged: on a shared machine the speed of a core
drifts by more than a server adds.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

from model.backends.base import BackendOptions
from model.inference.classifier import Classifier, load_classifier

BATCH_SIZES = (1, 2, 4, 8, 16)
SECONDS = 2.0  # of calls per figure
TOP_K = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds per call: mean CPU time of the process, and median wall-clock time."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Parts:
    """Cost of preprocessing an image, and of predicting a batch by its size."""

    preprocess: Cost
    predict: Mapping[int, Cost]

    def nearest(self, batch_size: float) -> int:
        """The measured batch size nearest to the server's mean batch size."""
        return min(self.predict, key=lambda size: abs(size - batch_size))

    def cpu_per_image(self, batch_size: int) -> float:
        """CPU seconds per image when predicted in a batch."""
        return self.preprocess.cpu + self.predict[batch_size].cpu / batch_size


def mean_parts(measured: Sequence[Parts]) -> Parts:
    return Parts(
        mean_cost([parts.preprocess for parts in measured]),
        {size: mean_cost([parts.predict[size] for parts in measured]) for size in BATCH_SIZES},
    )


def mean_cost(costs: Sequence[Cost]) -> Cost:
    return Cost(fmean(cost.cpu for cost in costs), fmean(cost.wall for cost in costs))


def load_parts(checkpoint: Path, served: Mapping[str, Any]) -> Classifier:
    """The classifier as in an inference thread of the server: warm, with one CPU thread.

    Args:
        served: the model, as described by ``/healthz``.
    """
    options = BackendOptions(
        backend=served["backend"].partition("-")[0],
        device=served["device"],
        precision=served["precision"],
        streams=1,
    )
    classifier = load_classifier(checkpoint, options=options, max_batch_size=max(BATCH_SIZES))
    classifier.open()
    classifier.warm_up()
    return classifier


def measure_parts(classifier: Classifier, images: Sequence[bytes]) -> Parts:
    """Measure preprocessing and `predict`: stack, normalise, forward, softmax and top-k."""
    encoded = itertools.cycle(images)
    items = itertools.cycle([classifier.preprocess(image) for image in images])

    def predict(size: int) -> object:
        return classifier.predict(list(itertools.islice(items, size)), TOP_K)

    return Parts(
        measure(lambda: classifier.preprocess(next(encoded))),
        {size: measure(partial(predict, size)) for size in BATCH_SIZES},
    )


def measure(call: Callable[[], object]) -> Cost:
    cpu: list[float] = []
    wall: list[float] = []
    while sum(wall) < SECONDS:
        wall_begun, cpu_begun = time.perf_counter(), time.process_time()
        call()
        cpu.append(time.process_time() - cpu_begun)
        wall.append(time.perf_counter() - wall_begun)
    return Cost(fmean(cpu), median(wall))
