"""Protocols for engines, which run in this process or in another."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from app.serving.classifier import Classification, Figures, Input, ModelInfo
from app.serving.entries import Outcome
from app.serving.errors import Draining, NotReady, ReloadFailed, ReloadInProgress
from app.serving.lifecycle import State
from app.serving.trace import Trace

RETRY_ELSEWHERE = 2  # seconds; a replica in this state will soon have ended or be ready


def not_serving(state: State) -> NotReady | Draining:
    """The refusal of a request by a service that does not serve."""
    refusal = Draining if state is State.DRAINING else NotReady
    return refusal(f"the service is {state}", retry_after=RETRY_ELSEWHERE)


def reload_in_progress() -> ReloadInProgress:
    """The refusal of a second reload."""
    return ReloadInProgress("another reload is in progress; try again when it has ended")


def keys_unusable(error: Exception) -> ReloadFailed:
    """The failure of a reload whose API keys cannot be used."""
    return ReloadFailed(f"{error}; the keys and the model are unchanged")


def model_unusable(error: Exception, served: ModelInfo) -> ReloadFailed:
    """The failure of a reload whose model cannot be served."""
    return ReloadFailed(f"{error}; {served.title} is still served")


class Job(NamedTuple):
    """An item, the number of classes that its caller wants, its trace and its permit."""

    item: Any
    top_k: int
    trace: Trace | None = None
    permit: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProgress:
    """An engine's device, its classified images and batches so far, and its waiting images."""

    device: str
    queue_depth: int
    images_total: int
    batches_total: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of all engines."""

    engines: Sequence[EngineProgress] = ()

    @property
    def images(self) -> int:
        """The number of classified images."""
        return sum(engine.images_total for engine in self.engines)

    @property
    def batches(self) -> int:
        """The number of their batches."""
        return sum(engine.batches_total for engine in self.engines)

    @property
    def queue_depth(self) -> int:
        """The number of images that wait for a batch."""
        return sum(engine.queue_depth for engine in self.engines)


@dataclass(frozen=True, slots=True)
class Replacement:
    """The model that a reload started, and the model that it replaced."""

    new: ModelInfo
    old: ModelInfo


class Preparer(Protocol):
    """Prepares images for one model; see `app.serving.classifier.Classifier`."""

    def preprocess(self, image: Input) -> Any: ...

    def prepare_explanation(self, data: bytes) -> Any: ...

    def explain(self, item: Any, head: int | None) -> bytes: ...

    def figures(self, item: Any, found: Classification) -> Figures: ...


class ServingEngine(Protocol):
    """A model and what runs it."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def classifier(self) -> Preparer: ...

    async def run(self, job: Job, deadline: float) -> Outcome[Classification]:
        """Classify an item; see `MicroBatcher.submit` for what it raises."""

    def in_use(self) -> AbstractContextManager[None]:
        """Keep the engine open for a request, even if a reload replaces it meanwhile."""


class Engines(Protocol):
    """The source of the engine that serves."""

    @property
    def current(self) -> ServingEngine | None:
        """The engine that serves; ``None`` while the first one loads."""

    @property
    def open(self) -> ServingEngine:
        """The engine that serves; raises `NotReady` or `Draining` if requests are refused."""

    @property
    def progress(self) -> Progress: ...

    async def start(self) -> None:
        """Load and warm up, then become READY, or FAILED."""

    async def reload(self, activate: Callable[[], None]) -> Replacement:
        """Load the model again and switch to it between two requests.

        Args:
            activate: called at the moment of the switch, for what must change together with it.

        Raises:
            ReloadInProgress: another reload has not ended.
            ReloadFailed: the new model cannot be served; the old one still is.
            NotReady, Draining: there is nothing to replace.
        """

    async def close(self) -> None: ...
