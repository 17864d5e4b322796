"""The classifier: encoded images in, labelled predictions out."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from model.backends.agreement import reference
from model.backends.base import Backend, BackendOptions, batch_sizes
from model.backends.choose import choose_backend, describe
from model.backends.determinism import Proof
from model.backends.timing import Clock
from model.checkpoint import NO_OVERRIDES, read_checkpoint
from model.errors import ModelError, OutOfMemory
from model.families.registry import FAMILIES
from model.families.simplify import baseline
from model.images.calibration import request_seconds
from model.images.preprocess import (
    DEFAULT_MAX_PIXELS,
    AnyPixels,
    FloatPixels,
    Pixels,
    preprocess,
    unnormalise,
)
from model.images.resize import SIMD, WITHOUT_SIMD
from model.inference.prediction import Classification, label, label_and_embed
from model.inference.saliency import Explainer
from model.inference.tuning import (
    Passes,
    cheapest_passes,
    smallest_near_best,
    throughput_by_size,
    time_sizes,
)
from model.metadata.description import Overrides
from model.scores import Logits
from model.spec import ModelSpec

logger = logging.getLogger(__name__)

DEFAULT_BACKEND = BackendOptions()
MAX_BATCH_SECONDS = 0.25
SLOW_PASSES = 3  # in a row, since a momentarily busy machine may slow down one
WARM_UP_PASSES = 2


class Classifier:
    """A checkpoint on a backend.

    `preprocess` and `unnormalise` may be called from any thread, `predict` only from threads that
    have called `open`.

    Attributes:
        reason: why this backend was chosen.
        weight_bytes: size of the weights.
        max_batch_size: the largest batch, in images; see `choose_batch_size`.
        images_per_second: the highest throughput that `choose_batch_size` found; 0 before.
        explainer: draws attention maps.
        embeds: whether the network's outputs are logits followed by the embedding.
        proof: batch sizes for deterministic mode.
    """

    def __init__(
        self,
        spec: ModelSpec,
        sha256: str,
        backend: Backend,
        explainer: Explainer,
        *,
        reason: str = "",
        weight_bytes: int = 0,
        max_batch_size: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        embeds: bool = False,
        proof: Proof | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.spec = spec
        self.sha256 = sha256
        self.backend = backend
        self.reason = reason
        self.weight_bytes = weight_bytes
        self.explainer = explainer
        self.embeds = embeds
        self.max_pixels = max_pixels
        self._clock = clock
        self._chosen = max_batch_size
        self.proof = proof
        largest = max_batch_size or backend.largest_batch
        self.max_batch_size = max(proof.sizes) if proof else largest
        self.images_per_second = 0.0
        self._passes: Sequence[Passes] = ()

    @property
    def buckets(self) -> tuple[int, ...]:
        """Batch sizes to warm up."""
        sizes = self.proof.sizes if self.proof else batch_sizes(self.max_batch_size)
        return tuple(size for size in sizes if size <= self.max_batch_size)

    def preprocess(self, data: bytes) -> Pixels:
        """Decode one image into the model's input ``(h, w, 3)``; raises `ImageError`."""
        return preprocess(data, self.spec.preprocess, max_pixels=self.max_pixels)

    def unnormalise(self, tensor: memoryview | bytes) -> FloatPixels:
        """The input ``(h, w, 3)`` of a normalised ``(3, h, w)`` tensor; raises `InvalidTensor`."""
        return unnormalise(tensor, self.spec.preprocess)

    def open(self) -> None:
        """Prepare the calling thread and run every bucket once, before anything is measured.

        Buckets that do not fit in memory or would take over `MAX_BATCH_SECONDS` are dropped, unless
        the caller chose ``max_batch_size``.

        Raises:
            ModelError: the device, the backend and the weights do not work together.
        """
        self.backend.open()
        try:
            self.self_test()
        except (MemoryError, RuntimeError) as error:
            raise ModelError(f"an image cannot be classified: {describe(error)}") from error
        for bucket in self.buckets:
            try:
                self._time_batch(bucket)  # the first pass may be slow
            except (OutOfMemory, MemoryError, RuntimeError) as error:
                self._limit_batch_size(bucket, error)
                break
            if not self._chosen and bucket < self.max_batch_size and self._is_slow(bucket):
                self.max_batch_size = bucket
                break

    def _limit_batch_size(self, bucket: int, error: Exception) -> None:
        """Limit batches to the bucket below ``bucket``, which failed; raises if there is none."""
        smaller = [size for size in self.buckets if size < bucket]
        if self._chosen or not smaller:
            raise ModelError(
                f"a batch of {bucket} images cannot be run: {describe(error)}"
            ) from error
        self.max_batch_size = smaller[-1]
        logger.warning("batches of %d images are disabled: %s", bucket, describe(error))

    def _is_slow(self, bucket: int) -> bool:
        """Whether a batch of twice the size would take over `MAX_BATCH_SECONDS`."""
        return all(2 * self._time_batch(bucket) > MAX_BATCH_SECONDS for _ in range(SLOW_PASSES))

    def self_test(self) -> None:
        """Classify a blank image in the calling thread; raises `ModelError`."""
        self.predict([self._blank()], 1)

    def time_batches(self) -> dict[int, float]:
        """Seconds of each bucket in the calling thread; see `time_sizes`."""
        return time_sizes(self._time_batch, self.buckets, self._clock)

    def choose_batch_size(self, timings: Sequence[Mapping[int, float]]) -> None:
        """Choose ``max_batch_size``, unless the caller did, and the passes of each batch size.

        Args:
            timings: of each stream, measured side by side; see `time_batches`.
        """
        sizes = self.buckets
        rates = throughput_by_size(timings, sizes)
        self.images_per_second = max(rates)
        if not self._chosen:
            self.max_batch_size = smallest_near_best(sizes, rates)
        self._passes = cheapest_passes(
            {size: sum(found[size] for found in timings) for size in self.buckets}
        )
        self.backend.keep(self.buckets)
        logger.info(
            "batches of at most %d: images/s by size %s",
            self.max_batch_size,
            ", ".join(f"{size}: {rate:.0f}" for size, rate in zip(sizes, rates, strict=True)),
        )

    def warm_up(self) -> None:
        """Run every possible batch size, so that no request waits for the first pass of a new size.

        `open` has run the buckets; a backend that pads needs no other sizes. In deterministic mode
        the proof is repeated, by all threads at once; raises `ModelError`.
        """
        if self.proof:
            self.proof.check(self.backend, self.buckets)
        elif not self.backend.pads:
            for size in range(1, self.max_batch_size + 1):
                for _ in range(WARM_UP_PASSES):
                    self._time_batch(size)

    def _time_batch(self, size: int) -> float:
        """Seconds that a batch of blank images takes in the calling thread."""
        batch = [self._blank()] * size
        begun = self._clock()
        self.predict(batch, 1)
        return self._clock() - begun

    def _blank(self) -> Pixels:
        size = self.spec.preprocess.image_size
        return np.zeros((size, size, 3), np.uint8)

    def padded_size(self, count: int) -> int:
        """Number of rows, padding included, in which ``count`` items are computed."""
        return sum(self._divide(count))

    def _divide(self, count: int) -> Passes:
        """The passes in which ``count`` items are computed."""
        if not self.backend.pads and not self.proof:
            return (count,)
        if count < len(self._passes):
            return self._passes[count]
        *_, largest = buckets = self.buckets
        if count > largest:
            return (largest, *self._divide(count - largest))
        return (next(bucket for bucket in buckets if bucket >= count),)

    def predict(self, items: Sequence[AnyPixels], top_k: int) -> list[Classification]:
        """Classify each item and return its ``top_k`` best classes; raises as `logits` does."""
        answer = label_and_embed if self.embeds else label
        return answer(self.logits(items), top_k, self.spec)

    def logits(self, items: Sequence[AnyPixels]) -> Logits:
        """The logits of each item, ``(items, classes)``; with the embedding if it ``embeds``.

        Raises:
            ModelError: the network's output is not finite.
            OutOfMemory: the batch does not fit in device memory.
            DeviceError: the device is lost.
        """
        passes = self._divide(len(items))
        if passes == (len(items),):
            batch: Any = np.stack(items)
            logits = self.backend.logits(batch)
        else:
            rows = iter([*items, *[items[0]] * (sum(passes) - len(items))])
            batches: Any = [np.stack([*islice(rows, size)]) for size in passes]
            logits = np.concatenate([self.backend.logits(batch) for batch in batches])[: len(items)]
        if not np.isfinite(logits).all():
            raise ModelError("the network's output is NaN or infinite for an image of this batch")
        return logits


def load_classifier(
    checkpoint: str | Path,
    overrides: Overrides = NO_OVERRIDES,
    options: BackendOptions = DEFAULT_BACKEND,
    *,
    max_batch_size: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    embeds: bool = False,
) -> Classifier:
    """Read a checkpoint and move it to a device. Call `Classifier.open` next.

    Args:
        checkpoint, overrides: see `read_checkpoint`.
        options: backend options.
        max_batch_size: maximum images per batch; measured if not given.
        embeds: whether predictions have an embedding; accepts a backbone without classes, too.

    Raises:
        CheckpointError: the file is missing, corrupt or of an unknown kind.
        ModelError: the device cannot be used.
    """
    found = read_checkpoint(checkpoint, replace(overrides, headless=embeds))
    spec, preprocess = found.spec, found.spec.preprocess
    whole = baseline(found.build(embeds=embeds), preprocess)
    expected, embeddings = reference(whole, preprocess.image_size, spec.num_classes)
    backend, reason, proof = choose_backend(
        lambda: FAMILIES[spec.family].simplify(found.build(embeds=embeds), preprocess),
        preprocess.image_size,
        expected,
        replace(options, largest_batch=max_batch_size),
        partial(request_seconds, preprocess) if options.serving else None,
        embeddings,
        found.quantisation,
    )
    logger.info(
        "%s (%s, %d classes, %d pixels, sha256 %s) on %s, %s, %s, %d streams of %d threads: %s",
        *(spec.name, spec.family, spec.num_classes, preprocess.image_size, found.sha256),
        *(backend.device, backend.name, backend.precision, backend.streams, backend.threads),
        reason,
    )
    if not SIMD:
        logger.info(WITHOUT_SIMD)
    return Classifier(
        spec,
        found.sha256,
        backend,
        Explainer(found.build, spec, max_pixels),
        reason=reason,
        weight_bytes=sum(tensor.nbytes for tensor in found.state.values()),
        max_batch_size=max_batch_size,
        max_pixels=max_pixels,
        embeds=embeds,
        proof=proof,
    )
