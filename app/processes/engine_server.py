"""The engine's side of the slots: images that workers submit, answered in batches."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from app.processes.channel import Channel
from app.processes.messages import NO_SPAN, Cancel, Done, Json, Message, Status, Submit
from app.processes.slots import SlotArea, Slots
from app.processes.status import EngineStatus
from app.serving.batcher import BatcherClosed, QueueFull
from app.serving.engine import Engine
from app.serving.engines import Job
from app.serving.entries import Entry, Outcome
from app.serving.errors import DeviceFailure, OutOfMemory, ServiceError
from app.serving.timings import Batch
from app.serving.trace import Trace
from app.serving.worker_pool import WorkerPool

STUCK_AFTER = 20.0  # CPU seconds of an explanation
STATUSES: Mapping[type[BaseException], Status] = {
    asyncio.CancelledError: Status.CANCELLED,
    TimeoutError: Status.EXPIRED,
    QueueFull: Status.FULL,
    OutOfMemory: Status.OUT_OF_MEMORY,
    BatcherClosed: Status.CLOSED,
    DeviceFailure: Status.DEVICE_FAILURE,
}

logger = logging.getLogger(__name__)


class SlotClassifier(Protocol):
    """A classifier of items in slots; see `app.loading.SlotClassifier`."""

    def item(self, slot: memoryview, *, floats: bool) -> Any: ...

    def explain_pixels(self, pixels: bytes, head: int | None) -> bytes: ...


class Spans(Protocol):
    """Spans that link to others in other processes; see `app.observability.tracing.Tracing`."""

    def remote_request(self, span: bytes) -> Trace: ...

    def batch_span(self, batch: Batch) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An engine, and where the slots of its model are."""

    engine: Engine
    classifier: SlotClassifier
    area: SlotArea


@dataclass(slots=True, eq=False)
class Worker:
    """A worker as the engine sees it."""

    number: int
    channel: Channel | None = None
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Submission:
    """A submitted image that has not been answered."""

    worker: Worker
    message: Submit
    engine: Engine
    entry: Entry[Job, Any]


class EngineServer:
    """Answers every `Submit` with one `Done`.

    Args:
        number: of this engine.
        status: of this engine.
        spans: connects the spans of requests and batches, where requests are traced.
        on_gone: called with the number of a worker that has ended, when all slots that it had
            submitted here are free or will be freed at the end of their batch.

    Attributes:
        models: by generation.
        dropped: messages that made no sense, such as those about slots of another worker.
    """

    def __init__(
        self,
        number: int,
        slots: Slots,
        status: EngineStatus,
        on_gone: Callable[[int], None],
        spans: Spans | None = None,
    ) -> None:
        self.spans = spans
        self._number = number
        self._slots = slots
        self._status = status
        self._on_gone = on_gone
        self._submissions: dict[int, Submission] = {}
        self._explainer = WorkerPool(1, "explainer", stuck_after=STUCK_AFTER)
        self._explanations: set[asyncio.Task[None]] = set()
        self._workers: set[Worker] = set()
        self._queue_shown: asyncio.Handle | None = None  # scheduled, once per turn of the loop
        self.models: dict[int, ServedModel] = {}
        self.dropped = 0

    def __len__(self) -> int:
        """The number of submitted, unanswered images."""
        return len(self._submissions)

    async def add_worker(self, number: int, end: Any) -> None:
        """Answer a worker that is connected by one end of a socket pair."""
        worker = Worker(number)
        self._workers.add(worker)
        worker.channel = await Channel.open(
            end, partial(self._on_message, worker), partial(self._on_end, worker)
        )

    def close(self) -> None:
        """Close the channels to workers."""
        self._explainer.stop()
        for worker in [*self._workers]:
            if worker.channel:
                worker.channel.close()

    def show_queue(self) -> None:
        """Write the number of waiting images to the status page."""
        self._queue_shown = None
        self._status.queue_depth = sum(model.engine.queue_depth for model in self.models.values())

    def _on_message(self, worker: Worker, message: Message) -> None:
        match message:
            case Submit():
                self._submit(worker, message)
            case Cancel():
                self._cancel(worker, message)
            case Json():
                self._explain(worker, message)
            case _:
                self.dropped += 1

    def _submit(self, worker: Worker, message: Submit) -> None:
        slot = message.slot
        current = self._slots.is_current(slot, message.generation, worker.number, self._number)
        if not current or slot in self._submissions:
            self.dropped += 1
            return
        model = self.models.get(message.model)
        if model is None:
            self._answer(worker, Done(slot, message.generation, Status.CLOSED))
            return
        item = model.classifier.item(model.area.slot(slot), floats=message.floats)
        trace = None
        if self.spans and message.trace != NO_SPAN:
            trace = self.spans.remote_request(message.trace)
        try:
            entry = model.engine.enqueue(Job(item, message.top_k, trace), message.deadline)
        except (QueueFull, BatcherClosed, DeviceFailure) as error:
            self._answer(worker, Done(slot, message.generation, status_of(error)))
            return
        self._submissions[slot] = Submission(worker, message, model.engine, entry)
        entry.future.add_done_callback(partial(self._finish, worker, message))
        if not self._queue_shown:
            self._queue_shown = asyncio.get_running_loop().call_soon(self.show_queue)

    def _cancel(self, worker: Worker, message: Cancel) -> None:
        """Withdraw an image that still waits; one in a batch is answered when the batch ends."""
        found = self._submissions.get(message.slot)
        if not found or found.message.generation != message.generation or found.worker != worker:
            return  # it has been answered
        if found.engine.withdraw(found.entry):
            found.entry.future.cancel()
            self.show_queue()

    def _finish(
        self, worker: Worker, message: Submit, future: "asyncio.Future[Outcome[Any]]"
    ) -> None:
        """Answer an image whose batch has ended, or which never got into one."""
        del self._submissions[message.slot]
        if future.cancelled():
            done = Done(message.slot, message.generation, Status.CANCELLED)
        elif error := future.exception():
            done = Done(message.slot, message.generation, status_of(error))
        else:
            outcome = future.result()
            batch = outcome.batch
            done = Done(
                message.slot,
                message.generation,
                Status.OK,
                batch=batch.number,
                thread=batch.thread,
                size=batch.size,
                started=batch.started,
                seconds=batch.seconds,
                queue=outcome.queue,
                trace=(self.spans and self.spans.batch_span(batch)) or NO_SPAN,
            )
        self._answer(worker, done)

    def _answer(self, worker: Worker, done: Done) -> None:
        if worker.gone:
            self._slots.free(done.slot)
        elif worker.channel:
            worker.channel.send(done)

    def _on_end(self, worker: Worker, reason: str) -> None:
        """Cancel the images of a worker that has ended; those in a batch free their slots later."""
        worker.gone = True
        if worker.channel and worker.channel.malformed:
            self.dropped += 1
        self._workers.discard(worker)
        for found in [*self._submissions.values()]:
            if found.worker is worker and found.engine.withdraw(found.entry):
                found.entry.future.cancel()
        self.show_queue()
        self._slots.free_unknown(worker.number, self._number, self._submissions.__contains__)
        logger.debug("worker %d has disconnected: %s", worker.number, reason)
        self._on_gone(worker.number)

    def _explain(self, worker: Worker, message: Json) -> None:
        task = asyncio.create_task(self._draw(worker, message))
        self._explanations.add(task)
        task.add_done_callback(self._explanations.discard)

    async def _draw(self, worker: Worker, message: Json) -> None:
        """Draw where the model looks, one image at a time."""
        number, generation = message.content.get("explain"), message.content.get("model")
        model = self.models.get(generation) if isinstance(generation, int) else None
        answer = Json({"explain": number, "error": "the model has been replaced; try again"})
        if model:
            draw = partial(
                model.classifier.explain_pixels, message.data, message.content.get("head")
            )
            try:
                answer = Json({"explain": number}, (await self._explainer.run(draw)).result)
            except Exception as error:
                if not isinstance(error, ServiceError):
                    logger.exception("unexpected error")
                answer = Json({"explain": number, "error": str(error)})
        if worker.channel:
            worker.channel.send(answer)


def status_of(error: BaseException) -> Status:
    """The status of an image that met an error."""
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            return status
    logger.error("an image failed", exc_info=error)
    return Status.FAILED
