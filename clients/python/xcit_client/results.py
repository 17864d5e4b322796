"""The answers of the service as dataclasses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Model:
    """The model that answered."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Row:
    """One class. The score is its probability; the synset is a WordNet id, if known."""

    class_id: int
    label: str
    score: float
    synset: str | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best classes of an image, highest score first.

    Attributes:
        timings: milliseconds spent in each phase of the service, and in ``total``.
        request_id: identifies the request in the log of the service.
    """

    model: Model
    rows: tuple[Row, ...]
    timings: Mapping[str, float]
    request_id: str

    @property
    def best(self) -> Row:
        return self.rows[0]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The served model, its device and backend.

    Attributes:
        temperature: divides the logits before their softmax; 1 if the scores are not calibrated.
        gap_temperatures: pairs of a distance to the best logit and the temperature beyond it.
        deterministic: whether an image's logits do not depend on its batch.
        fingerprint: digest of the logits of test images in deterministic mode, else empty; equal on
            servers that compute the same bits.
        images_per_second: the highest throughput of the model alone, measured at the start of the
            service; 0 from a service that does not say.
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


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine of the service: its device and its progress.

    Attributes:
        queue_depth: images that wait for a batch.
        images_total, batches_total: since the start of the service.
    """

    device: str
    queue_depth: int
    images_total: int
    batches_total: int


@dataclass(frozen=True, slots=True)
class Health:
    """The state of the service; ``model`` is ``None`` and ``engines`` is empty until it is loaded.

    Attributes:
        http_workers: processes for HTTP and decoding; 0 if one process does everything.
        http_workers_reason: why this number was chosen; empty from a service that does not say.
    """

    alive: bool
    ready: bool
    state: str
    failure: str | None
    model: ServedModel | None
    queue_depth: int
    images_total: int
    batches_total: int
    engines: tuple[Engine, ...] = ()
    http_workers: int = 0
    http_workers_reason: str = ""
