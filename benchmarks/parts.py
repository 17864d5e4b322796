"""The bare costs: what preprocessing and model take alone, on one thread, without a server."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from model import Classifier, load_classifier
from model.preprocess import Pixels

BATCH_SIZES = (1, 2, 4, 8, 16)
SECONDS = 3.0  # of calls, for one figure
TOP_K = 5


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds a call: CPU time of the calling thread on average, wall-clock time in the median."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Parts:
    """Cost of preprocessing an image, and of predicting a batch, by its size."""

    checkpoint_sha256: str
    preprocess: Cost
    predict: Mapping[int, Cost]

    def nearest(self, batch_size: float) -> int:
        """The measured batch size nearest to what a server really ran."""
        return min(self.predict, key=lambda size: abs(size - batch_size))

    def cpu_per_image(self, batch_size: int) -> float:
        """CPU seconds of an image that is predicted in company."""
        return self.preprocess.cpu + self.predict[batch_size].cpu / batch_size

    @property
    def lone_wall(self) -> float:
        """Seconds that an image alone must take."""
        return self.preprocess.wall + self.predict[1].wall


def measure_parts(checkpoint: Path, images: Sequence[bytes]) -> Parts:
    """`predict` is all that the model side does: stack, normalise, forward, softmax and top-k."""
    classifier = load_classifier(checkpoint, device="cpu", max_batch_size=max(BATCH_SIZES))
    classifier.warm_up()
    items = [classifier.preprocess(image) for image in images]
    endless = itertools.cycle(images)
    return Parts(
        classifier.sha256,
        measure(lambda: classifier.preprocess(next(endless))),
        {size: measure_batches(classifier, items, size) for size in BATCH_SIZES},
    )


def measure_batches(classifier: Classifier, items: Sequence[Pixels], size: int) -> Cost:
    endless = itertools.cycle(items)
    return measure(lambda: classifier.predict(list(itertools.islice(endless, size)), TOP_K))


def measure(call: Callable[[], object]) -> Cost:
    cpu: list[float] = []
    wall: list[float] = []
    while sum(wall) < SECONDS:
        wall_begun, cpu_begun = time.perf_counter(), time.thread_time()
        call()
        cpu.append(time.thread_time() - cpu_begun)
        wall.append(time.perf_counter() - wall_begun)
    return Cost(fmean(cpu), median(wall))
