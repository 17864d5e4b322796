"""The protocol of a classifier, and the types that it takes and returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The model that is served and how it runs; ``model`` in the answer of ``/healthz``.

    Attributes:
        temperature: divides the logits before their softmax; 1 for scores that are not calibrated.
        gap_temperatures: pairs of a distance to the best logit and the temperature beyond it.
        deterministic: whether an image's logits do not depend on its batch.
        fingerprint: digest of the logits of test images in deterministic mode, else empty; equal on
            servers that compute the same bits.
        images_per_second: the highest throughput of the model alone, measured at the start.
    """

    name: str
    version: str
    family: str
    checkpoint_sha256: str
    device: str
    backend: str
    backend_reason: str
    precision: str
    streams: int
    max_batch_size: int
    num_classes: int
    image_size: int
    heads: int
    temperature: float = 1.0
    gap_temperatures: Sequence[Sequence[float]] = ()
    deterministic: bool = False
    fingerprint: str = ""
    images_per_second: float = 0.0

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{self.name} {self.version}"


class Figures(NamedTuple):
    """The numbers that the metrics count for one image; see `model.drift.Figures`."""

    class_id: int
    score: float
    entropy: float
    brightness: float
    pixels: int | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """An image that the client has decoded and normalised.

    Attributes:
        values: ``(3, h, w)`` little-endian 32-bit floats, in C order.
    """

    values: memoryview


Input = bytes | Tensor


class Prediction(Protocol):
    """One class of an answer."""

    @property
    def class_id(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def synset(self) -> str | None: ...


class Classification(Protocol):
    """The result for one image; logits and probabilities are buffers of 32-bit floats.

    So is the embedding, which is ``None`` unless the classifier was loaded for it.
    """

    @property
    def predictions(self) -> Sequence[Prediction]: ...
    @property
    def logits(self) -> Any: ...
    @property
    def probabilities(self) -> Any: ...
    @property
    def embedding(self) -> Any: ...


class Classifier(Protocol):
    """Makes items from images, and classifications from items.

    `preprocess` and `prepare_explanation` are called from several threads at once. `open`,
    `time_batches` and `warm_up` are called once in each inference thread, in this order, and
    `predict` and `self_test` in those threads only.
    """

    @property
    def info(self) -> ModelInfo:
        """The model that is served; final once `choose_batch_size` has been called."""

    @property
    def profile(self) -> Mapping[str, Any]:
        """Classes and buckets of the metrics of predictions; see `model.drift.profile`."""

    @property
    def streams(self) -> int:
        """The number of threads that should run batches in parallel."""

    def open(self) -> None:
        """Prepare the calling thread; raises `StartupError` if the model cannot be served."""

    def time_batches(self) -> Mapping[int, float]:
        """Measure the seconds of each batch size, while the other threads do the same."""

    def choose_batch_size(self, timings: Sequence[Mapping[int, float]]) -> None:
        """Choose the maximum batch size from the measurements of all threads."""

    def warm_up(self) -> None:
        """Run every batch size that will be used; raises `StartupError` if that shows a fault."""

    def self_test(self) -> None:
        """Classify a blank image; raises `DeviceFailure` if that fails."""

    def preprocess(self, image: Input) -> Any:
        """The item of an encoded image or a tensor; raises a `ServiceError` if it is invalid."""

    def prepare_explanation(self, data: bytes) -> Any:
        """The item of an encoded image for `explain`; raises as `preprocess` does."""

    def explain(self, item: Any, head: int | None) -> bytes:
        """Draw the class attention of one head, or the mean of all, as a PNG; in any thread."""

    def padded_size(self, count: int) -> int:
        """The number of rows, with padding, in a batch of ``count`` items."""

    def predict(self, items: Sequence[Any], top_k: int) -> Sequence[Classification]:
        """Classify items, each with its ``top_k`` best classes.

        Raises `DeviceFailure` if the device is lost, `OutOfMemory` if there are too many items.
        """

    def figures(self, item: Any, found: Classification) -> Figures:
        """The numbers that the metrics count for a classified item."""
