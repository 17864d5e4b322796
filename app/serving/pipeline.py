"""The path of an image: admission, decoding, micro-batch, top-k."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

from app.config.cpu_quota import usable_cores
from app.config.settings import Settings
from app.serving.admission import Admission
from app.serving.answers import Answer, Answers
from app.serving.batcher import BatcherClosed, QueueFull
from app.serving.classifier import Input, ModelInfo
from app.serving.engines import RETRY_ELSEWHERE, Engines, Job, Progress, Replacement, ServingEngine
from app.serving.errors import (
    DeadlineExceeded,
    DeviceFailure,
    InternalError,
    NotReady,
    OutOfMemory,
    Overloaded,
    ServiceError,
    drop_tracebacks,
)
from app.serving.held_bytes import HeldBytes, Hold, keep, size_of
from app.serving.lifecycle import Lifecycle
from app.serving.permits import CountedPermits, Permits
from app.serving.timings import Timings
from app.serving.trace import current_trace
from app.serving.worker_pool import WorkerPool

logger = logging.getLogger(__name__)

Image = TypeVar("Image", bytes, Input)

STUCK_AFTER = 20.0  # CPU seconds; at the default limits no image takes a tenth of that
MAX_EXPLANATIONS = 8  # few, because each takes as long as many predictions


class Pipeline:
    """Admits, decodes and classifies images, on an engine that can be replaced.

    Args:
        engines: the source of the engine that serves.
        admission: bounds on images and on the bytes of requests.
    """

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        engines: Engines,
        permits: Permits,
        held: HeldBytes,
    ) -> None:
        self._settings = settings
        self._engines = engines
        self._permits = permits
        workers = settings.preprocess_workers or usable_cores()
        self._admission = Admission(permits, held, at_once=workers)
        self._decoders = WorkerPool(
            workers, "decoder", stuck_after=STUCK_AFTER, on_lost=lifecycle.fail
        )
        # One thread, so that explanations take at most one core from predictions.
        self._explainers = WorkerPool(1, "explainer", stuck_after=STUCK_AFTER)
        self._explanations = Admission(
            CountedPermits(MAX_EXPLANATIONS), HeldBytes(settings.max_queue_bytes)
        )

    @property
    def info(self) -> ModelInfo | None:
        """The model that is served; ``None`` while the first one loads."""
        return engine.info if (engine := self._engines.current) else None

    @property
    def infos(self) -> Sequence[ModelInfo]:
        """The model as each engine serves it, for the metrics; empty while it loads."""
        return [info] if (info := self.info) else []

    @property
    def served(self) -> ModelInfo:
        """The model that is served; raises `NotReady` or `Draining` if requests are refused."""
        return self._engines.open.info

    @property
    def progress(self) -> Progress:
        """The numbers of classified and waiting images, and of batches."""
        return self._engines.progress

    @property
    def admitted(self) -> int:
        """The number of admitted, unanswered images."""
        return self._permits.used

    @property
    def held_bytes(self) -> int:
        """The bytes of bodies held by requests and by decoders whose requests have ended."""
        return self._admission.bytes

    @property
    def stuck_decoders(self) -> int:
        """The number of stuck decoding threads, which have been replaced."""
        return self._decoders.count_stuck()

    async def start(self) -> None:
        """Load and warm up, then become READY, or FAILED."""
        await self._engines.start()

    async def reload(self, activate: Callable[[], None] = lambda: None) -> Replacement:
        """See `Engines.reload`."""
        return await self._engines.reload(activate)

    async def stop(self) -> None:
        await self._engines.close()
        self._decoders.stop()
        self._explainers.stop()

    def deadline(self, timings: Timings, timeout: float = math.inf) -> float:
        """The deadline of a request, by the client's ``timeout`` and the service's."""
        return timings.started + min(timeout, self._settings.request_timeout_s)

    def check(self, deadline: float) -> None:
        """Check that a request can be admitted, before its body is read.

        Raises:
            NotReady, Draining, Overloaded: the service cannot take a request now.
        """
        _ = self._engines.open
        self._admission.check(deadline)

    def upload(self) -> AbstractContextManager[Hold]:
        """See `Admission.upload`."""
        return self._admission.upload()

    async def predict(self, image: Input, top_k: int, deadline: float, timings: Timings) -> Answer:
        """The ``top_k`` best classes of an image, or all if there are fewer.

        Raises:
            ServiceError: the image cannot be classified.
        """
        engine = self._engines.open
        with self._admission.admit(deadline) as (permit,), engine.in_use():
            return await self._classify(engine, image, top_k, deadline, timings, permit)

    async def predict_many(
        self, images: Sequence[Input], top_k: int, deadline: float, timings: Timings
    ) -> Answers:
        """Classify the images of one request. All are admitted or none; each fails alone.

        ``timings`` gets, for each phase, the longest time of any image.

        Raises:
            ServiceError: the images cannot be admitted.
        """
        engine = self._engines.open
        image_timings = [Timings(timings.started) for _ in images]
        with self._admission.admit(deadline, len(images)) as permits, engine.in_use():
            found = await asyncio.gather(
                *(
                    self._classify(engine, image, top_k, deadline, of_image, permit)
                    for image, of_image, permit in zip(images, image_timings, permits, strict=True)
                ),
                return_exceptions=True,
            )
        timings.take_longest(image_timings)
        return Answers(
            engine.info,
            [
                outcome if isinstance(outcome, Answer) else _service_error(outcome)
                for outcome in found
            ],
        )

    async def explain(
        self, data: bytes, head: int | None, deadline: float, timings: Timings
    ) -> bytes:
        """The class attention in an encoded image, as a PNG; see `Classifier.explain`.

        Raises:
            ServiceError: the image cannot be explained.
        """
        engine = self._engines.open
        classifier = engine.classifier
        with self._explanations.admit(deadline), engine.in_use():
            try:
                async with asyncio.timeout_at(deadline):
                    item = await self._decode(classifier.prepare_explanation, data, timings)
                    drawn = await self._explainers.run(partial(classifier.explain, item, head))
            except TimeoutError as error:
                raise _too_late(deadline, timings) from error
            return drawn.result

    async def _classify(
        self,
        engine: ServingEngine,
        image: Input,
        top_k: int,
        deadline: float,
        timings: Timings,
        permit: Any,
    ) -> Answer:
        info = engine.info
        try:
            async with asyncio.timeout_at(deadline):
                item = await self._decode(engine.classifier.preprocess, image, timings)
                job = Job(item, min(top_k, info.num_classes), current_trace.get(), permit)
                outcome = await engine.run(job, deadline)
        except TimeoutError as error:
            raise _too_late(deadline, timings) from error
        except QueueFull as error:
            raise Overloaded(str(error), retry_after=self._admission.retry_after()) from error
        except OutOfMemory as error:
            raise Overloaded(
                "the device is out of memory; try again",
                retry_after=self._admission.retry_after(),
            ) from error
        except (DeviceFailure, BatcherClosed) as error:
            raise NotReady("the service is failing", retry_after=RETRY_ELSEWHERE) from error
        batch = outcome.batch
        timings.add("queue", batch.started - outcome.queue, batch.started)
        timings.add("inference", batch.started, batch.started + batch.seconds)
        timings.batches.append(batch)
        figures = engine.classifier.figures(item, outcome.result)
        timings.predictions.append((info.checkpoint_sha256, figures))
        return Answer(info, outcome.result.predictions[:top_k], outcome.result)

    async def _decode(
        self, preprocess: Callable[[Image], Any], image: Image, timings: Timings
    ) -> Any:
        """The item of an image. Waiting for a thread counts as queueing.

        The image's bytes remain counted while a thread reads them, even after the request ends.
        """
        queued = time.monotonic()
        timed = await self._decoders.run(partial(preprocess, image), keep(size_of(image)))
        timings.add("preprocess", timed.begun, timed.ended)
        timings.add("queue", queued, timed.begun)
        return timed.result


def _too_late(deadline: float, timings: Timings) -> DeadlineExceeded:
    return DeadlineExceeded(f"not answered within {deadline - timings.started:g} s")


def _service_error(error: BaseException) -> ServiceError:
    """The error of one image in a batch request, as a `ServiceError`; defects are logged."""
    if not isinstance(error, Exception):
        raise error
    if not isinstance(error, ServiceError):
        logger.error("unexpected error", exc_info=error)
        if trace := current_trace.get():
            trace.note(error)
    drop_tracebacks(error)
    if isinstance(error, ServiceError):
        return error
    return InternalError("internal error; search the service's log for the request id")
