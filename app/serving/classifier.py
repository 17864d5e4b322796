"""What the service needs of a classifier. It is met by the model's, and by a fake in tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The model that is served and how it is run: the model of ``/healthz``."""

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

    @property
    def title(self) -> str:
        """Name and version, for messages."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class Tensor:
    """An image that its caller has decoded and normalised.

    Attributes:
        values: ``(3, h, w)`` little-endian floats of 32 bits, in C order.
    """

    values: memoryview


Input = bytes | Tensor


class Prediction(Protocol):
    """One row of an answer."""

    @property
    def class_id(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def synset(self) -> str | None: ...


class Classification(Protocol):
    """What is said of one image; logits and probabilities are buffers of 32-bit floats."""

    @property
    def predictions(self) -> Sequence[Prediction]: ...
    @property
    def logits(self) -> Any: ...
    @property
    def probabilities(self) -> Any: ...


class Classifier(Protocol):
    """Image to item, items to classifications.

    `preprocess` and `prepare_explanation` are called from several threads at once. `open`,
    `time_batches` and `warm_up` are called once in each inference thread, in this order, and
    `predict` and `self_test` in those threads only.
    """

    @property
    def info(self) -> ModelInfo:
        """What is being served; as it will be, once `choose_batch_size` was called."""

    @property
    def streams(self) -> int:
        """How many threads should run batches side by side."""

    def open(self) -> None:
        """Prepare the thread; raises `StartupError` if the model cannot be served."""

    def time_batches(self) -> Mapping[int, float]:
        """Seconds by batch size, in the calling inference thread, while the others do the same."""

    def choose_batch_size(self, timings: Sequence[Mapping[int, float]]) -> None:
        """Choose what is to be chosen by what all threads measured."""

    def warm_up(self) -> None:
        """Run every batch size that is to come."""

    def self_test(self) -> None:
        """In an inference thread; raises `DeviceFailure` unless any image can be classified."""

    def preprocess(self, image: Input) -> Any:
        """The item of an encoded image or a tensor; raises a `ServiceError` if it is no good."""

    def prepare_explanation(self, data: bytes) -> Any:
        """The item of `explain` for an encoded image; raises as `preprocess` does."""

    def explain(self, item: Any, head: int | None) -> bytes:
        """Draw where the class token looks, as a PNG: by one head, or the mean of all heads.

        From any thread.
        """

    def padded_size(self, count: int) -> int:
        """Rows that a batch of ``count`` items is computed with."""

    def predict(self, items: Sequence[Any], top_k: int) -> Sequence[Classification]:
        """What is said of each item, with its ``top_k`` best classes.

        Raises `DeviceFailure` if the device is lost, `OutOfMemory` if there are too many items.
        """
