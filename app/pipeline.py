"""The path of an image: admission, preprocess pool, micro-batch, top-k."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.admission import Admission
from app.batcher import BatcherClosed, QueueFull
from app.classifier import Classification, Classifier, Input, ModelInfo, Prediction
from app.cores import usable_cores
from app.engine import Engine, Job, load_streams
from app.errors import (
    DeadlineExceeded,
    DeviceFailure,
    Draining,
    InternalError,
    NotReady,
    OutOfMemory,
    Overloaded,
    ReloadFailed,
    ReloadInProgress,
    ServiceError,
    StartupError,
)
from app.lifecycle import Lifecycle, State
from app.metrics import Metrics
from app.preprocess_pool import PreprocessPool
from app.record import current_trace
from app.settings import Settings
from app.timings import Batch, Timings

logger = logging.getLogger(__name__)

MAX_EXPLANATIONS = 8  # waiting; each takes as long as many predictions
RETRY_ELSEWHERE = 2  # seconds; a replica in this state is soon gone or ready


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said of an image, its best classes, and which model says so."""

    model: ModelInfo
    predictions: Sequence[Prediction]
    classification: Classification


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of images that came in together, in order, and which model was asked."""

    model: ModelInfo
    outcomes: Sequence[Answer | ServiceError]

    def all(self) -> list[Answer]:
        """An answer to each; raises the first error there is."""
        answers = []
        for number, outcome in enumerate(self.outcomes):
            if isinstance(outcome, ServiceError):
                outcome.name_image(number, len(self.outcomes))
                raise outcome
            answers.append(outcome)
        return answers

    def raise_if_service_failed(self) -> None:
        """Raise the first error if no image was answered for reasons that are none of its own."""
        if all(isinstance(o, ServiceError) and o.status >= 500 for o in self.outcomes):
            self.all()


class Pipeline:
    """Takes images from admission to predictions, on an engine that can be replaced.

    Args:
        load: makes the classifier, in an inference thread; called again by `reload`.
        on_loaded: called whenever an engine has been put to work.
        on_batch: told every batch, also those that failed, the rows of its padding, and its jobs.

    Attributes:
        images, batches: how many have been classified so far.
    """

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        metrics: Metrics,
        load: Callable[[], Classifier],
        on_loaded: Callable[[], None],
        on_batch: Callable[[Batch, int, Sequence[Job]], None] | None = None,
    ) -> None:
        self._load = load
        self._on_loaded = on_loaded
        self._on_batch = on_batch
        self._reloading = False
        self._settings = settings
        self._lifecycle = lifecycle
        self._metrics = metrics
        workers = settings.preprocess_workers or usable_cores()
        self._admission = Admission(
            settings.max_queue_size, settings.max_queue_bytes, at_once=workers
        )
        self._preprocess_pool = PreprocessPool(
            workers,
            settings.request_timeout_s,
            on_failure=lifecycle.fail,
        )
        # One at a time, so that pictures take no more than a core from predictions.
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._explanations = Admission(MAX_EXPLANATIONS, settings.max_queue_bytes)
        self._engine: Engine | None = None
        self.images = self.batches = 0
        metrics.queue_depth.set_function(lambda: self.queue_depth)
        metrics.max_batch_size.set_function(lambda: self.info.max_batch_size if self.info else 0)
        metrics.inflight.set_function(lambda: self._admission.images)
        metrics.held_bytes.set_function(lambda: self._admission.bytes)
        metrics.streams.set_function(lambda: self.info.streams if self.info else 0)
        metrics.max_queue_size.set(settings.max_queue_size)
        metrics.max_queue_bytes.set(settings.max_queue_bytes)
        metrics.cores.set(usable_cores())

    @property
    def info(self) -> ModelInfo | None:
        """What is being served; ``None`` while it loads."""
        return self._engine.info if self._engine else None

    @property
    def served(self) -> ModelInfo:
        """As `info`; raises `NotReady` or `Draining` if nothing is served."""
        return self._open_engine().info

    @property
    def queue_depth(self) -> int:
        """Preprocessed images that wait for a batch."""
        return self._engine.queue_depth if self._engine else 0

    async def start(self) -> None:
        """Load and warm up, then become READY, or FAILED."""
        try:
            self._engine = await self._new_engine()
        except StartupError as error:
            self._lifecycle.fail(str(error))
            return
        self._on_loaded()
        if self._lifecycle.state is State.LOADING:  # and not asked to stop meanwhile
            self._lifecycle.become_ready()

    async def reload(self) -> ModelInfo:
        """Load once more beside what is served, and switch to it between two requests.

        What was admitted before ends on the old engine, which is closed after the last of it.

        Raises:
            ReloadInProgress: one after the other.
            ReloadFailed: the new model cannot be served, and the old one still is.
            NotReady, Draining: there is nothing to replace.
        """
        if self._reloading:
            raise ReloadInProgress("a model is being loaded; try again when it is there")
        old = self._open_engine()
        self._reloading = True
        try:
            self._engine = new = await self._new_engine()
        except Exception as error:
            logger.warning("reload failed, %s is still served: %s", old.info.name, error)
            raise ReloadFailed(f"{error}; {old.info.name} is still served") from error
        finally:
            self._reloading = False
        logger.info("%s is served instead of %s", new.info.name, old.info.name)
        await old.retire()
        del old
        self._on_loaded()
        return new.info

    async def _new_engine(self) -> Engine:
        classifier, streams = await load_streams(self._load)
        engine = Engine(
            classifier,
            streams,
            self._settings,
            on_batch=self._observe_batch,
            on_failure=lambda error: self._lifecycle.fail(f"inference failed: {error}"),
        )
        self._metrics.show_model(engine.info)
        return engine

    async def stop(self) -> None:
        if self._engine:
            await self._engine.close()
        self._preprocess_pool.stop()
        self._explainer.shutdown(wait=False, cancel_futures=True)

    def deadline(self, timings: Timings, patience: float = math.inf) -> float:
        """When a request is given up: after its client's ``patience`` in seconds, or ours."""
        return timings.started + min(patience, self._settings.request_timeout_s)

    def check(self, deadline: float) -> None:
        """Refuse at the door what `predict` would refuse later.

        Raises:
            NotReady, Draining, Overloaded: not now.
        """
        self._open_engine()
        self._admission.check(deadline)

    def upload(self) -> AbstractContextManager[Callable[[int], None]]:
        """See `Admission.upload`."""
        return self._admission.upload()

    async def predict(self, image: Input, top_k: int, deadline: float, timings: Timings) -> Answer:
        """The ``top_k`` best classes of an image, or all where there are fewer.

        Raises:
            ServiceError: every way not to be answered, but for defects.
        """
        engine = self._open_engine()
        with self._admission.admit(deadline), engine.in_use():
            return await self._classify(engine, image, top_k, deadline, timings)

    async def predict_many(
        self, images: Sequence[Input], top_k: int, deadline: float, timings: Timings
    ) -> Answers:
        """As `predict`, of images that come in together: all or none of them, if there is no room.

        Each fails alone. The phases are those of the image that took longest in each.

        Raises:
            ServiceError: none of them may come in.
        """
        engine = self._open_engine()
        each = [Timings(timings.started) for _ in images]
        with self._admission.admit(deadline, len(images)), engine.in_use():
            found = await asyncio.gather(
                *(
                    self._classify(engine, image, top_k, deadline, its)
                    for image, its in zip(images, each, strict=True)
                ),
                return_exceptions=True,
            )
        timings.take_longest(each)
        return Answers(
            engine.info,
            [outcome if isinstance(outcome, Answer) else _told(outcome) for outcome in found],
        )

    async def explain(
        self, data: bytes, head: int | None, deadline: float, timings: Timings
    ) -> bytes:
        """A PNG of where the model looks in an encoded image; see `Classifier.explain`.

        Raises:
            ServiceError: as `predict`.
        """
        engine = self._open_engine()
        loop = asyncio.get_running_loop()
        with self._explanations.admit(deadline), engine.in_use():
            call = partial(engine.classifier.explain, data, head)
            try:
                async with asyncio.timeout_at(deadline):
                    picture = await loop.run_in_executor(self._explainer, call)
            except TimeoutError as error:
                raise _too_late(deadline, timings) from error
            return picture

    async def _classify(
        self, engine: Engine, image: Input, top_k: int, deadline: float, timings: Timings
    ) -> Answer:
        info = engine.info
        try:
            async with asyncio.timeout_at(deadline):
                item = await self._preprocess(engine.classifier, image, timings)
                job = Job(item, min(top_k, info.num_classes), current_trace())
                outcome = await engine.run(job, deadline)
        except TimeoutError as error:
            raise _too_late(deadline, timings) from error
        except QueueFull as error:
            raise Overloaded(str(error), retry_after=self._admission.retry_after()) from error
        except OutOfMemory as error:
            raise Overloaded(
                "the device has no memory left for the image; try again",
                retry_after=self._admission.retry_after(),
            ) from error
        except (DeviceFailure, BatcherClosed) as error:
            raise NotReady("the service is failing", retry_after=RETRY_ELSEWHERE) from error
        batch = outcome.batch
        timings.add("queue", batch.started - outcome.queue, batch.started)
        timings.add("inference", batch.started, batch.started + batch.seconds)
        timings.batches.append(batch)
        return Answer(info, outcome.result.predictions[:top_k], outcome.result)

    async def _preprocess(self, classifier: Classifier, image: Input, timings: Timings) -> Any:
        """The item of an image; waiting for a thread of the pool counts as queueing."""
        asked = time.monotonic()
        timed = await self._preprocess_pool.run(partial(classifier.preprocess, image))
        timings.add("preprocess", timed.begun, timed.ended)
        timings.add("queue", asked, timed.begun)
        return timed.result

    def _open_engine(self) -> Engine:
        state = self._lifecycle.state
        if self._engine and self._lifecycle.serving:
            return self._engine
        refusal = Draining if state is State.DRAINING else NotReady
        raise refusal(f"the service is {state}", retry_after=RETRY_ELSEWHERE)

    def _observe_batch(self, batch: Batch, padding: int, jobs: Sequence[Job]) -> None:
        if self._on_batch:
            self._on_batch(batch, padding, jobs)
        if batch.error is None:
            self.images += batch.size
            self.batches += 1
            self._metrics.observe_batch(batch.size, padding, batch.seconds)


def _too_late(deadline: float, timings: Timings) -> DeadlineExceeded:
    return DeadlineExceeded(f"not answered within {deadline - timings.started:g} s")


def _told(error: BaseException) -> ServiceError:
    """The error of an image among others, in the service's terms."""
    if isinstance(error, ServiceError):
        return error
    if not isinstance(error, Exception):
        raise error
    logger.error("unexpected error", exc_info=error)
    if trace := current_trace():
        trace.note(error)
    return InternalError("the service failed; its log has the request id")
