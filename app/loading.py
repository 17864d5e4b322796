"""Loads the model and adapts it to the service."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from app.config.cpu_quota import usable_cores
from app.config.memory import memory_limit, warn_of_memory
from app.config.settings import Settings
from app.preparation import image_errors, measure, prepare_input
from app.serving import classifier as service
from app.serving import errors
from app.serving.classifier import Figures, Input, ModelInfo
from model.backends.base import BackendOptions
from model.checkpoint import BUNDLED_CHECKPOINT
from model.drift import profile
from model.errors import (
    DeviceError,
    ModelError,
    OutOfMemory,
)
from model.images.calibration import request_seconds
from model.images.preprocess import Prepared
from model.inference import classifier as model_classifier
from model.inference.classifier import load_classifier
from model.inference.exchange import exchange_bytes, read_item, spec_to_json, write_logits
from model.inference.prediction import Classification
from model.inference.views import Views, views_from_bytes
from model.metadata.description import Overrides


def overrides(settings: Settings) -> Overrides:
    """The settings that override a checkpoint's metadata."""
    return Overrides(
        labels=settings.labels,
        image_size=settings.image_size,
        preprocess=settings.preprocess,
        hyperparameters=settings.hyperparameters,
        temperature=settings.temperature,
    )


def backend_options(
    settings: Settings, cores: int, *, streams: int | None = None, serving: bool = False
) -> BackendOptions:
    """The backend options in the settings; ``streams`` overrides theirs."""
    return BackendOptions(
        backend=settings.backend,
        device=settings.device,
        precision=settings.precision,
        cores=cores,
        streams=streams or settings.streams,
        serving=serving,
        cache_dir=settings.cache_dir,
        compile=settings.compile,
        deterministic=settings.deterministic,
    )


def checkpoint_path(settings: Settings) -> str | Path:
    """The checkpoint that the settings name, by default the bundled one."""
    return settings.checkpoint or BUNDLED_CHECKPOINT


def load_model(settings: Settings, cores: int) -> "ServedClassifier":
    """The classifier that ``settings`` name, for some cores of a CPU.

    Raises:
        StartupError: it cannot be served.
    """
    classifier = load_served(settings, cores)
    warn_of_memory(settings, cores, classifier.weight_bytes, memory_limit())
    return ServedClassifier(classifier)


def load_for_scoring(settings: Settings, cores: int, *, embeds: bool) -> "ScoringClassifier":
    """As `load_model`, for `app.scoring`; ``embeds`` adds embeddings to the predictions."""
    return ScoringClassifier(load_served(settings, cores, embeds=embeds))


def load_served(
    settings: Settings, cores: int, *, embeds: bool = False
) -> model_classifier.Classifier:
    """The classifier that serves with these settings; raises `StartupError`."""
    try:
        return load_classifier(
            checkpoint_path(settings),
            overrides(settings),
            backend_options(settings, cores, serving=True),
            max_batch_size=settings.max_batch_size,
            max_pixels=settings.max_pixels,
            embeds=embeds,
        )
    except ModelError as error:
        raise errors.StartupError(str(error)) from error


def load_for_command(
    settings: Settings, *, streams: int | None = None, max_batch_size: int | None = None
) -> model_classifier.Classifier:
    """The classifier for a command that runs without a server; raises `ModelError`.

    In deterministic mode it computes what a server with these settings does.
    """
    if settings.deterministic:
        max_batch_size = settings.max_batch_size
    return load_classifier(
        checkpoint_path(settings),
        overrides(settings),
        backend_options(settings, usable_cores(), streams=streams),
        max_batch_size=max_batch_size,
        max_pixels=settings.max_pixels,
    )


def load_for_engine(settings: Settings, cores: int) -> "SlotClassifier":
    """As `load_model`, for an engine whose items are in slots."""
    return SlotClassifier(load_served(settings, cores))


class ServedClassifier:
    """Adapts the model's classifier to the service's protocol, info and errors."""

    def __init__(self, classifier: model_classifier.Classifier) -> None:
        self.classifier = classifier
        self.streams = classifier.backend.streams
        self.padded_size = classifier.padded_size
        self.time_batches = classifier.time_batches
        self.choose_batch_size = classifier.choose_batch_size

    @property
    def info(self) -> ModelInfo:
        spec, backend = self.classifier.spec, self.classifier.backend
        return ModelInfo(
            name=spec.name,
            version=spec.version,
            family=spec.family,
            checkpoint_sha256=self.classifier.sha256,
            device=backend.device,
            backend=backend.name,
            backend_reason=self.classifier.reason,
            precision=backend.precision,
            streams=backend.streams,
            max_batch_size=self.classifier.max_batch_size,
            num_classes=spec.num_classes,
            image_size=spec.preprocess.image_size,
            heads=self.classifier.explainer.heads,
            temperature=spec.temperature,
            gap_temperatures=spec.gap_temperatures,
            deterministic=self.classifier.proof is not None,
            fingerprint=self.classifier.proof.fingerprint if self.classifier.proof else "",
            images_per_second=round(self.classifier.images_per_second, 1),
        )

    def open(self) -> None:
        try:
            self.classifier.open()
        except ModelError as error:
            raise errors.StartupError(str(error)) from error

    def warm_up(self) -> None:
        try:
            self.classifier.warm_up()
        except ModelError as error:
            raise errors.StartupError(str(error)) from error

    def self_test(self) -> None:
        try:
            self.classifier.self_test()
        except Exception as error:
            raise errors.DeviceFailure(f"the self-test failed: {error}") from error

    @property
    def profile(self) -> dict[str, Any]:
        spec = self.classifier.spec
        return profile(spec.labels, spec.reference)

    def preprocess(self, image: Input) -> Prepared:
        return prepare_input(image, self.classifier.spec, self.classifier.max_pixels)

    def prepare_explanation(self, data: bytes) -> Views:
        with image_errors():
            return self.classifier.explainer.prepare(data)

    def explain(self, item: Views, head: int | None) -> bytes:
        return self.classifier.explainer.draw(item, head)

    def predict(self, items: Sequence[Prepared], top_k: int) -> list[Classification]:
        with device_errors():
            return self.classifier.predict([item.seen for item in items], top_k)

    def figures(self, item: Prepared, found: service.Classification) -> Figures:
        return measure(item, found, self.classifier.spec)


class ScoringClassifier(ServedClassifier):
    """Predicts in passes of one size, so that no result depends on the rest of its batch."""

    def __init__(self, classifier: model_classifier.Classifier) -> None:
        super().__init__(classifier)
        self._limit = math.inf  # lower after the device was out of memory

    @property
    def embedding_size(self) -> int:
        """Numbers of an embedding; 0 without embeddings."""
        return int(self.classifier.spec.hyperparameters["dim"]) if self.classifier.embeds else 0

    @property
    def spec(self) -> dict[str, Any]:
        """The description of the model, as JSON."""
        return spec_to_json(self.classifier.spec)

    def predict(self, items: Sequence[Prepared], top_k: int) -> list[Classification]:
        size = int(min(self.classifier.max_batch_size, self._limit))
        padding = [items[0]] * (size - len(items))
        try:
            return super().predict([*items, *padding], top_k)[: len(items)]
        except errors.OutOfMemory:
            self._limit = max(1, size // 2)
            raise


@contextmanager
def device_errors() -> Iterator[None]:
    """Convert the model's errors of a batch into the service's."""
    try:
        yield
    except DeviceError as error:
        raise errors.DeviceFailure(str(error)) from error
    except (OutOfMemory, MemoryError) as error:
        raise errors.OutOfMemory(str(error)) from error


class SlotItem(NamedTuple):
    """An item in a slot, where its answer is to be written.

    Attributes:
        data: the bytes of the slot.
        floats: whether the item is made of 32-bit floats.
    """

    data: memoryview
    floats: bool


class SlotClassifier(ServedClassifier):
    """Classifies items in slots, and writes their logits there."""

    def __init__(self, classifier: model_classifier.Classifier) -> None:
        super().__init__(classifier)
        self._request_seconds = request_seconds(classifier.spec.preprocess)

    @property
    def busy_workers(self) -> float:
        """CPU cores that decoding and HTTP take while this engine is busy."""
        return self.classifier.images_per_second * self._request_seconds

    @property
    def weight_bytes(self) -> int:
        """Size of the weights."""
        return self.classifier.weight_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot."""
        return exchange_bytes(self.classifier.spec)

    @property
    def spec(self) -> dict[str, Any]:
        """The description of the model, as JSON; see `app.preparation.RemotePreparer`."""
        return spec_to_json(self.classifier.spec)

    def item(self, slot: memoryview, *, floats: bool) -> SlotItem:
        """The item in a slot."""
        return SlotItem(slot, floats)

    def predict(self, items: Sequence[Any], top_k: int) -> list[Any]:
        image_size = self.classifier.spec.preprocess.image_size
        with device_errors():
            logits = self.classifier.logits(
                [read_item(item.data, item.floats, image_size) for item in items]
            )
        for item, row in zip(items, logits, strict=True):
            write_logits(row, item.data)
        return [None] * len(items)

    def explain_pixels(self, pixels: bytes, head: int | None) -> bytes:
        """A PNG of where the model looks, from what `RemotePreparer.prepare_explanation` made."""
        return self.classifier.explainer.draw(
            views_from_bytes(pixels, self.classifier.spec.preprocess), head
        )
