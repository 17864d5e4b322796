"""The classifier: encoded images in, labelled predictions out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from model.backends.base import Backend
from model.backends.torch import TorchBackend
from model.checkpoint import NO_OVERRIDES, read_checkpoint
from model.description import Overrides
from model.errors import ModelError
from model.normalise import Normalise
from model.preprocess import DEFAULT_MAX_PIXELS, Pixels, preprocess
from model.spec import ModelSpec

logger = logging.getLogger(__name__)

SCORE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of an answer; ``score`` is a softmax probability of `SCORE_DIGITS` digits.

    ``synset`` is WordNet's id of the class, where it is known.
    """

    class_id: int
    label: str
    score: float
    synset: str | None = None


class Classifier:
    """A checkpoint on a backend.

    `preprocess` may be called from any thread; `predict` from threads that called `warm_up`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        sha256: str,
        backend: Backend,
        *,
        max_batch_size: int = 1,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.spec = spec
        self.sha256 = sha256
        self.backend = backend
        self.buckets = batch_buckets(max_batch_size)
        self._max_pixels = max_pixels

    def preprocess(self, data: bytes) -> Pixels:
        """One encoded image to the model's input ``(h, w, 3)``; raises `ImageError`."""
        return preprocess(data, self.spec.preprocess, max_pixels=self._max_pixels)

    def warm_up(self) -> None:
        """Prepare the calling thread: run every bucket once, and look at what comes out.

        Raises:
            ModelError: the device, the backend and the weights do not work together.
        """
        self.backend.open()
        size = self.spec.preprocess.image_size
        gradient = np.linspace(0, 255, size * size * 3).astype(np.uint8).reshape(size, size, 3)
        for bucket in reversed(self.buckets):
            rows = self.predict([gradient] * bucket, self.spec.num_classes)
            total = sum(prediction.score for prediction in rows[0])
            if abs(total - 1) > 0.01:
                raise ModelError(f"self-test failed: probabilities add up to {total:.3f}, not 1")

    def padded_size(self, count: int) -> int:
        """Rows that a batch of ``count`` items is computed with."""
        if not self.backend.pads:
            return count
        return next(bucket for bucket in self.buckets if bucket >= count)

    def predict(self, items: Sequence[Pixels], top_k: int) -> list[list[Prediction]]:
        """The ``top_k`` best classes of each item, best first.

        Raises:
            ModelError: the network gave a number that is no probability.
            DeviceError: the device is lost.
        """
        padding = self.padded_size(len(items)) - len(items)
        batch = np.stack([*items, *[items[0]] * padding])
        scores, class_ids = self.backend.classify(batch, top_k)
        scores, class_ids = scores[: len(items)], class_ids[: len(items)]
        if not np.isfinite(scores).all():
            raise ModelError("the network gave NaN or infinity for an image of this batch")
        labels = self.spec.labels
        synsets = self.spec.synsets or (None,) * len(labels)
        return [
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


def load_classifier(
    checkpoint: str | Path,
    overrides: Overrides = NO_OVERRIDES,
    *,
    device: str = "auto",
    precision: str = "auto",
    cores: int = 1,
    streams: int | None = None,
    max_batch_size: int = 1,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Classifier:
    """Read a checkpoint and put it on a device. `Classifier.warm_up` comes next.

    Args:
        checkpoint, overrides: see `read_checkpoint`.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        precision: ``auto``, ``float32``, ``bfloat16``, ``float16``.
        cores: how many cores of the CPU to use.
        streams: threads that will call `Classifier.predict` side by side; the backend knows a
            good number.

    Raises:
        CheckpointError: the file is missing, broken or of an unknown kind.
        ModelError: the device cannot be used.
    """
    found = read_checkpoint(checkpoint, overrides)
    spec = found.spec
    network = nn.Sequential(Normalise(spec.preprocess), found.build()).eval()
    backend = TorchBackend(network, device, precision, cores=cores, streams=streams)
    logger.info(
        "%s (%s, %d classes, %d pixels, sha256 %s) on %s, %s, %s",
        spec.name,
        spec.family,
        spec.num_classes,
        spec.preprocess.image_size,
        found.sha256,
        backend.device,
        backend.name,
        backend.precision,
    )
    return Classifier(
        spec, found.sha256, backend, max_batch_size=max_batch_size, max_pixels=max_pixels
    )


def batch_buckets(max_batch_size: int) -> tuple[int, ...]:
    """The batch sizes to warm: powers of two, and the largest itself."""
    powers = (1 << i for i in range(max_batch_size.bit_length()))
    return tuple(sorted({*powers, max_batch_size}))
