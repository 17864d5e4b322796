"""The classifier: encoded images in, labelled predictions out."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from model.backends.base import Backend
from model.backends.choose import BackendOptions, choose_backend, probabilities
from model.checkpoint import NO_OVERRIDES, read_checkpoint
from model.description import Overrides
from model.errors import ModelError
from model.families import FAMILIES
from model.passes import Passes, cheapest_passes
from model.photo import preprocess_seconds
from model.preprocess import (
    DEFAULT_MAX_PIXELS,
    AnyPixels,
    FloatPixels,
    Pixels,
    preprocess,
    unnormalise,
)
from model.saliency import Explainer
from model.scores import Logits, Scores, best_classes, softmax
from model.simplify import plain
from model.spec import ModelSpec

DEFAULT_BACKEND = BackendOptions()

logger = logging.getLogger(__name__)

SCORE_DIGITS = 6
MAX_BATCH_SECONDS = 0.25
NEAR_BEST = 0.97
TRIALS = 4  # rounds, or as many more as take so long
TRIAL_SECONDS = 0.2
MOST_PASSES = 8  # of a small batch in a round
WARM_UP_PASSES = 2
REQUEST_SECONDS = 1.1e-3  # of a busy core, to receive a photo and to answer, beside decoding
HOP_SECONDS = 3e-4  # what a batch costs its server beside the pass: from queue to thread and back


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of an answer; ``score`` is a softmax probability of `SCORE_DIGITS` digits.

    ``synset`` is WordNet's id of the class, where it is known.
    """

    class_id: int
    label: str
    score: float
    synset: str | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """What is said of one image.

    Attributes:
        predictions: the best classes, best first.
        logits: of every class ``(classes,)``.
    """

    predictions: Sequence[Prediction]
    logits: Logits

    @property
    def probabilities(self) -> Scores:
        """Of every class ``(classes,)``."""
        return softmax(self.logits)


class Classifier:
    """A checkpoint on a backend.

    `preprocess` and `unnormalise` may be called from any thread; `predict` from threads that
    called `open`.

    Attributes:
        reason: why it runs on this backend.
        max_batch_size: images a batch, at most; see `settle`.
        explainer: who shows where the network looks.
    """

    def __init__(
        self,
        spec: ModelSpec,
        sha256: str,
        backend: Backend,
        explainer: Explainer,
        *,
        reason: str = "",
        max_batch_size: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.spec = spec
        self.sha256 = sha256
        self.backend = backend
        self.reason = reason
        self.explainer = explainer
        self._max_pixels = max_pixels
        self._chosen = max_batch_size
        self.max_batch_size = max_batch_size or backend.largest_batch
        self._passes: Sequence[Passes] = ()

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batch sizes to warm: powers of two, and the largest itself."""
        powers = (1 << i for i in range(self.max_batch_size.bit_length()))
        return tuple(sorted({*powers, self.max_batch_size}))

    def preprocess(self, data: bytes) -> Pixels:
        """One encoded image to the model's input ``(h, w, 3)``; raises `ImageError`."""
        return preprocess(data, self.spec.preprocess, max_pixels=self._max_pixels)

    def unnormalise(self, tensor: memoryview | bytes) -> FloatPixels:
        """A normalised image, ``(3, h, w)`` 32-bit floats, to the model's input ``(h, w, 3)``.

        Raises:
            InvalidTensor: of another size, or of numbers that are no normalised pixels.
        """
        return unnormalise(tensor, self.spec.preprocess)

    def open(self) -> None:
        """Prepare the calling thread, and look at what comes out; see `self_test`.

        Every bucket is run, before anything is measured. Where the size is not the caller's choice,
        those that would take over `MAX_BATCH_SECONDS` are given up.
        """
        self.backend.open()
        self.self_test()
        for bucket in self.buckets:
            self._time_batch(bucket)  # the first pass, which may be a long one
            if not self._chosen and 2 * self._time_batch(bucket) > MAX_BATCH_SECONDS:
                self.max_batch_size = bucket
                break

    def self_test(self) -> None:
        """Classify a blank image in the calling thread.

        Raises:
            ModelError: the device, the backend and the weights do not work together.
        """
        self.predict([self._blank()], 1)

    def time_batches(self) -> dict[int, float]:
        """Run every bucket in the calling thread: seconds by batch size, the mean of many passes.

        Not the least, and small batches as long as large ones: where the machine is fast for
        moments, a short measurement finds one sooner.
        """
        largest = self.buckets[-1]
        passes = {size: min(MOST_PASSES, largest // size) for size in self.buckets}
        sums = dict.fromkeys(passes, 0.0)
        begun, rounds = time.perf_counter(), 0
        while rounds < TRIALS or time.perf_counter() - begun < TRIAL_SECONDS:
            for size, count in passes.items():  # in turn, as a machine's speed drifts
                sums[size] += sum(self._time_batch(size) for _ in range(count)) / count
            rounds += 1
        return {size: seconds / rounds for size, seconds in sums.items()}

    def settle(self, timings: Sequence[Mapping[int, float]]) -> None:
        """Choose ``max_batch_size``, unless the caller did, by what `time_batches` found.

        It is the smallest that comes near the best throughput: what is larger only lets callers
        wait for each other. How batches between two buckets are computed is chosen as well.

        Args:
            timings: of each stream, measured side by side.
        """
        rates = {
            size: sum(size / (found[size] + HOP_SECONDS) for found in timings)
            for size in self.buckets
        }
        enough = NEAR_BEST * max(rates.values())
        if not self._chosen:
            self.max_batch_size = next(size for size, rate in rates.items() if rate >= enough)
        self._passes = cheapest_passes(
            {size: sum(found[size] for found in timings) for size in self.buckets}
        )
        self.backend.keep(self.buckets)
        logger.info(
            "batches of at most %d: images/s by size %s",
            self.max_batch_size,
            ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.items()),
        )

    def warm_up(self) -> None:
        """Run every batch size that is to come, so that no caller waits for its first pass.

        Buckets have been run by `open`; who pads needs no others.
        """
        if not self.backend.pads:
            for size in range(1, self.max_batch_size + 1):
                for _ in range(WARM_UP_PASSES):
                    self._time_batch(size)

    def _time_batch(self, size: int) -> float:
        batch = [self._blank()] * size
        begun = time.perf_counter()
        self.predict(batch, 1)
        return time.perf_counter() - begun

    def _blank(self) -> Pixels:
        size = self.spec.preprocess.image_size
        return np.zeros((size, size, 3), np.uint8)

    def padded_size(self, count: int) -> int:
        """Rows that a batch of ``count`` items is computed with."""
        return sum(self._divide(count))

    def _divide(self, count: int) -> Passes:
        """The passes that a batch of ``count`` items is computed in."""
        if not self.backend.pads:
            return (count,)
        if count < len(self._passes):
            return self._passes[count]
        return (next(bucket for bucket in self.buckets if bucket >= count),)

    def predict(self, items: Sequence[AnyPixels], top_k: int) -> list[Classification]:
        """What is said of each item, with its ``top_k`` best classes.

        Raises:
            ModelError: the network gave a number that is no probability.
            OutOfMemory: the batch does not fit into the device's memory.
            DeviceError: the device is lost.
        """
        passes = self._divide(len(items))
        rows = iter([*items, *[items[0]] * (sum(passes) - len(items))])
        batches: Any = [np.stack([*islice(rows, size)]) for size in passes]
        logits = np.concatenate([self.backend.logits(batch) for batch in batches])[: len(items)]
        if not np.isfinite(logits).all():
            raise ModelError("the network gave NaN or infinity for an image of this batch")
        scores, class_ids = best_classes(logits, top_k)
        labels = self.spec.labels
        synsets = self.spec.synsets or (None,) * len(labels)
        predictions = [
            [
                Prediction(
                    class_id,
                    labels[class_id],
                    float(f"{score:.{SCORE_DIGITS}g}"),
                    synsets[class_id],
                )
                for class_id, score in zip(row_ids, row_scores, strict=True)
            ]
            for row_ids, row_scores in zip(class_ids.tolist(), scores.tolist(), strict=True)
        ]
        return [*map(Classification, predictions, logits)]


def load_classifier(
    checkpoint: str | Path,
    overrides: Overrides = NO_OVERRIDES,
    options: BackendOptions = DEFAULT_BACKEND,
    *,
    max_batch_size: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Classifier:
    """Read a checkpoint and put it on a device. `Classifier.open` comes next.

    Args:
        checkpoint, overrides: see `read_checkpoint`.
        options: of a backend.
        max_batch_size: images a batch, at most, where measurement is not to decide.

    Raises:
        CheckpointError: the file is missing, broken or of an unknown kind.
        ModelError: the device cannot be used.
    """
    found = read_checkpoint(checkpoint, overrides)
    spec, preprocess = found.spec, found.spec.preprocess
    family = FAMILIES[spec.family]
    backend, reason = choose_backend(
        lambda: family.simplify(found.build(), preprocess),
        preprocess.image_size,
        probabilities(plain(found.build(), preprocess), preprocess.image_size),
        options,
        (lambda: preprocess_seconds(preprocess) + REQUEST_SECONDS) if options.serving else None,
    )
    logger.info(
        "%s (%s, %d classes, %d pixels, sha256 %s) on %s, %s, %s, %d streams of %d threads: %s",
        spec.name,
        spec.family,
        spec.num_classes,
        preprocess.image_size,
        found.sha256,
        backend.device,
        backend.name,
        backend.precision,
        backend.streams,
        backend.threads,
        reason,
    )
    return Classifier(
        spec,
        found.sha256,
        backend,
        Explainer(found.build, spec, max_pixels),
        reason=reason,
        max_batch_size=max_batch_size,
        max_pixels=max_pixels,
    )
