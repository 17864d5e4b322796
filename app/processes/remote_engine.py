"""The worker's side of the slots: an engine in another process that serves as one in this."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from app.processes.engine_link import EngineLink
from app.processes.messages import NO_SPAN, Status, Submit
from app.processes.slots import Claim, SlotArea, Slots
from app.processes.status import StatusPage
from app.serving.batcher import BatcherClosed, QueueFull
from app.serving.classifier import Classification, Figures, Input, ModelInfo
from app.serving.engines import Job, Progress, Replacement, not_serving
from app.serving.entries import Outcome
from app.serving.errors import DeviceFailure, OutOfMemory
from app.serving.lifecycle import Lifecycle
from app.serving.timings import Batch

ERRORS: dict[Status, Callable[[], Exception]] = {
    Status.EXPIRED: lambda: TimeoutError("the deadline passed in the queue"),
    Status.FULL: lambda: QueueFull("the queue of the engine is full"),
    Status.OUT_OF_MEMORY: lambda: OutOfMemory("the device has no memory left"),
    Status.CLOSED: lambda: BatcherClosed("the engine was closed"),
    Status.DEVICE_FAILURE: lambda: DeviceFailure("the engine failed"),
    Status.FAILED: lambda: RuntimeError("the model failed; the log of the engine has the error"),
}


class RemotePreparer(Protocol):
    """Prepares images for a remote engine; see `app.preparation.RemotePreparer`."""

    def preprocess(self, image: Input) -> Any: ...

    def prepare_explanation(self, data: bytes) -> bytes: ...

    def write(self, item: Any, slot: memoryview) -> bool: ...

    def read(self, slot: memoryview, top_k: int) -> Classification: ...

    def figures(self, item: Any, found: Classification) -> Figures: ...


class BatchSpans(Protocol):
    """Links requests to batches; see `app.observability.tracing.Tracing`."""

    def add_batch_span(self, batch: Batch, span: bytes) -> None: ...


@dataclass(slots=True, eq=False)
class RemoteModel:
    """A model that engines serve, as a worker knows it.

    Attributes:
        devices: of each engine.
        users: requests that use it.
    """

    generation: int
    info: ModelInfo
    devices: Sequence[str]
    preparer: RemotePreparer
    area: SlotArea
    users: int = 0


class RemoteEngine:
    """A model on engines in other processes, for the path of an image."""

    def __init__(self, model: RemoteModel, engines: "RemoteEngines") -> None:
        self.model = model
        self._engines = engines
        self.info = model.info
        self.classifier = RemoteClassifier(model, engines)

    async def run(self, job: Job, deadline: float) -> Outcome[Classification]:
        """Classify an item; raises as `MicroBatcher.submit` does."""
        claim: Claim = job.permit
        slot = self.model.area.slot(claim.slot)
        floats = self.model.preparer.write(job.item, slot)
        link = self._engines.least_busy()
        self._engines.slots.submit(claim, link.number)
        submit = Submit(
            slot=claim.slot,
            generation=claim.generation,
            model=self.model.generation,
            top_k=job.top_k,
            floats=floats,
            deadline=deadline,
            trace=(job.trace and job.trace.packed) or NO_SPAN,
        )
        done = await link.submit(submit, claim)
        if done.status is Status.CANCELLED:
            raise BatcherClosed("the engine was closed")
        if done.status is not Status.OK:
            raise ERRORS[done.status]()
        batch = Batch(done.batch, done.thread, done.size, done.started, done.seconds)
        if self._engines.spans and done.trace != NO_SPAN:
            self._engines.spans.add_batch_span(batch, done.trace)
        return Outcome(self.model.preparer.read(slot, job.top_k), done.queue, batch)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the model loaded until the request ends."""
        self.model.users += 1
        try:
            yield
        finally:
            self.model.users -= 1
            self._engines.release(self.model)


class RemoteClassifier:
    """Prepares images here, and has them explained by an engine."""

    def __init__(self, model: RemoteModel, engines: "RemoteEngines") -> None:
        self._model = model
        self._engines = engines
        self.preprocess = model.preparer.preprocess
        self.prepare_explanation = model.preparer.prepare_explanation
        self.figures = model.preparer.figures

    def explain(self, item: bytes, head: int | None) -> bytes:
        """Wait for the picture, in a thread."""
        assert self._engines.loop
        link = self._engines.least_busy()
        drawn = link.explain(self._model.generation, item, head)
        return asyncio.run_coroutine_threadsafe(drawn, self._engines.loop).result()


class RemoteEngines:
    """The engines of the service, as a worker sees them.

    Which model serves is read from the status page, so that all workers switch at the same moment.

    Args:
        links: one for each engine.
        on_unused: called with the generation of a model that has been replaced and that no request
            uses any more.
        reload: asks the supervisor for a reload.
        spans: gets the spans of batches, where requests are traced.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        page: StatusPage,
        slots: Slots,
        links: Sequence[EngineLink],
        *,
        on_unused: Callable[[int], None],
        reload: Callable[[], Any],
        spans: BatchSpans | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._page = page
        self.slots = slots
        self._links = links
        self._on_unused = on_unused
        self._reload = reload
        self.spans = spans
        self.loop: asyncio.AbstractEventLoop | None = None
        self._engines: dict[int, RemoteEngine] = {}

    @property
    def current(self) -> RemoteEngine | None:
        """The model that serves; ``None`` while the first one loads."""
        return self._engines.get(self._page.model)

    @property
    def open(self) -> RemoteEngine:
        """The model that serves; raises `NotReady` or `Draining` if requests are refused."""
        engine = self.current
        if engine and self._lifecycle.serving:
            return engine
        raise not_serving(self._lifecycle.state)

    @property
    def progress(self) -> Progress:
        """The numbers of classified and waiting images, and of batches, of all engines."""
        engine = self.current
        return self._page.progress(engine.model.devices if engine else ())

    def add(self, model: RemoteModel) -> None:
        """Know a model, which serves as soon as the status page says so."""
        self._engines[model.generation] = RemoteEngine(model, self)

    def limit_batches(self, generation: int, size: int) -> None:
        """Show that a model runs in smaller batches from now on."""
        if engine := self._engines.get(generation):
            engine.info = replace(engine.info, max_batch_size=size)

    def release(self, model: RemoteModel) -> None:
        """Forget a model that has been replaced, once no request uses it."""
        if model.users or model.generation >= self._page.model:
            return
        if self._engines.pop(model.generation, None):
            self._on_unused(model.generation)

    def release_replaced(self, generation: int) -> None:
        """Forget a model that has been replaced, now or when the last request ends."""
        if engine := self._engines.get(generation):
            self.release(engine.model)
        else:  # this worker started after the switch
            self._on_unused(generation)

    def least_busy(self) -> EngineLink:
        """The engine with the fewest unanswered images, from all workers."""
        return min(self._links, key=lambda link: self.slots.submitted(link.number))

    async def start(self) -> None:
        """Nothing but to know the event loop: the supervisor starts engines."""
        self.loop = asyncio.get_running_loop()

    async def reload(self, activate: Callable[[], None]) -> Replacement:
        """Ask the supervisor, which reads the API keys, too."""
        replacement: Replacement = await self._reload()
        return replacement

    async def close(self) -> None:
        for link in self._links:
            if link.channel:
                link.channel.close()
