"""The path of one image: admission, preprocess pool, micro-batch, top-k."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from app.admission import Admission
from app.batcher import BatcherClosed, QueueFull
from app.classifier import Classifier, ModelInfo, Prediction
from app.cores import usable_cores
from app.engine import Engine, Job, load_streams
from app.errors import (
    DeadlineExceeded,
    DeviceFailure,
    Draining,
    NotReady,
    OutOfMemory,
    Overloaded,
    StartupError,
)
from app.lifecycle import Lifecycle, State
from app.metrics import Metrics
from app.preprocess_pool import PreprocessPool
from app.settings import Settings
from app.timings import Timings

RETRY_ELSEWHERE = 2  # seconds; a replica in this state is soon gone or ready


class Pipeline:
    """Takes images from admission to predictions, once an engine has been started."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle, metrics: Metrics) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._admission = Admission(settings.max_queue_size, settings.max_queue_bytes)
        self._preprocess_pool = PreprocessPool(
            settings.preprocess_workers or usable_cores(),
            settings.request_timeout_s,
            on_failure=lifecycle.fail,
        )
        self._engine: Engine | None = None
        metrics.queue_depth.set_function(lambda: self.queue_depth)
        metrics.max_batch_size.set_function(lambda: self.info.max_batch_size if self.info else 0)
        metrics.inflight.set_function(lambda: self._admission.images)

    @property
    def info(self) -> ModelInfo | None:
        """What is being served; ``None`` while it loads."""
        return self._engine.info if self._engine else None

    @property
    def queue_depth(self) -> int:
        """Preprocessed images that wait for a batch."""
        return self._engine.queue_depth if self._engine else 0

    async def start(self, load: Callable[[], Classifier]) -> None:
        """Load and warm up, then become READY, or FAILED."""
        try:
            classifier, streams = await load_streams(load)
        except StartupError as error:
            self._lifecycle.fail(str(error))
            return
        self._engine = Engine(
            classifier,
            streams,
            self._settings,
            on_batch=self._observe_batch,
            on_failure=lambda error: self._lifecycle.fail(f"inference failed: {error}"),
        )
        self._metrics.show_model(self._engine.info)
        if self._lifecycle.state is State.LOADING:  # and not asked to stop meanwhile
            self._lifecycle.become_ready()

    async def stop(self) -> None:
        if self._engine:
            await self._engine.close()
        self._preprocess_pool.stop()

    def deadline(self, timings: Timings, patience: float = math.inf) -> float:
        """When a request is given up: after its client's ``patience`` in seconds, or ours."""
        return timings.started + min(patience, self._settings.request_timeout_s)

    def check(self, deadline: float) -> ModelInfo:
        """What is being served; refuses at the door what `predict` would refuse later.

        Raises:
            NotReady, Draining, Overloaded: not now.
        """
        info = self._open_engine().info
        self._admission.check(deadline)
        return info

    def upload(self) -> AbstractContextManager[Callable[[int], None]]:
        """See `Admission.upload`."""
        return self._admission.upload()

    async def predict(
        self, data: bytes, top_k: int, deadline: float, timings: Timings
    ) -> Sequence[Prediction]:
        """The ``top_k`` best classes of one encoded image, from 1 to the number of classes.

        Raises:
            ServiceError: every way not to be answered, but for defects.
        """
        engine = self._open_engine()
        with self._admission.admit(deadline):
            try:
                async with asyncio.timeout_at(deadline):
                    item = await self._preprocess(engine.classifier, data, timings)
                    outcome = await engine.run(Job(item, top_k), deadline)
            except TimeoutError as error:
                seconds = deadline - timings.started
                raise DeadlineExceeded(f"not answered within {seconds:g} s") from error
            except QueueFull as error:
                raise Overloaded(str(error), retry_after=self._admission.retry_after()) from error
            except OutOfMemory as error:
                raise Overloaded(
                    "the device has no memory left for the image; try again",
                    retry_after=self._admission.retry_after(),
                ) from error
            except (DeviceFailure, BatcherClosed) as error:
                raise NotReady("the service is failing", retry_after=RETRY_ELSEWHERE) from error
        timings.phases["queue"] += outcome.queue
        timings.phases["inference"] = outcome.inference
        timings.batch_size = outcome.batch_size
        return outcome.result[:top_k]

    async def _preprocess(self, classifier: Classifier, data: bytes, timings: Timings) -> Any:
        """The item of an encoded image; waiting for a thread of the pool counts as queueing."""
        asked = time.monotonic()
        timed = await self._preprocess_pool.run(partial(classifier.preprocess, data))
        timings.phases["preprocess"] = timed.ended - timed.begun
        timings.phases["queue"] = timed.begun - asked
        return timed.result

    def _open_engine(self) -> Engine:
        state = self._lifecycle.state
        if self._engine and self._lifecycle.serving:
            return self._engine
        refusal = Draining if state is State.DRAINING else NotReady
        raise refusal(f"the service is {state}", retry_after=RETRY_ELSEWHERE)

    def _observe_batch(self, size: int) -> None:
        assert self._engine is not None
        self._admission.observe_batch(size)
        padding = self._engine.classifier.padded_size(size) - size
        self._metrics.observe_batch(size, padding)
