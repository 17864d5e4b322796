"""The start of the engine, and its replacement while requests are served."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.config.settings import Settings
from app.serving.classifier import Classifier, ModelInfo
from app.serving.engine import Engine, load_and_warm_up
from app.serving.engines import (
    EngineProgress,
    Job,
    Progress,
    Replacement,
    model_unusable,
    not_serving,
    reload_in_progress,
)
from app.serving.errors import (
    StartupError,
)
from app.serving.lifecycle import Lifecycle, State
from app.serving.timings import Batch

logger = logging.getLogger(__name__)


class EngineManager:
    """Holds the engine that serves.

    Args:
        load: makes the classifier, in an inference thread; called again by `reload`.
        on_model: called with the profile and the description of each model when it starts to serve.
        on_loaded: called after ``on_model``, once the replaced model has been released.
        on_batch: see `Engine`.
    """

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        load: Callable[[], Classifier],
        *,
        on_model: Callable[[Mapping[str, Any], ModelInfo], None] = lambda profile, info: None,
        on_loaded: Callable[[], None] = lambda: None,
        on_batch: Callable[[Batch, int, Sequence[Job]], None] = lambda batch, padding, jobs: None,
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._load = load
        self._on_model = on_model
        self._on_loaded = on_loaded
        self._on_batch = on_batch
        self._reloading = False
        self._engine: Engine | None = None
        self._images = self._batches = 0

    @property
    def progress(self) -> Progress:
        if not self._engine:
            return Progress()
        engine = EngineProgress(
            device=self._engine.info.device,
            queue_depth=self._engine.queue_depth,
            images_total=self._images,
            batches_total=self._batches,
        )
        return Progress((engine,))

    @property
    def current(self) -> Engine | None:
        """The engine that serves; ``None`` while the first one loads."""
        return self._engine

    @property
    def open(self) -> Engine:
        """The engine that serves; raises `NotReady` or `Draining` if requests are refused."""
        if self._engine and self._lifecycle.serving:
            return self._engine
        raise not_serving(self._lifecycle.state)

    async def start(self) -> None:
        """Load and warm up, then become READY, or FAILED."""
        try:
            self._use(await self._new_engine())
        except StartupError as error:
            self._lifecycle.fail(str(error))
            return
        self._on_loaded()
        if self._lifecycle.state is State.LOADING:  # otherwise the service is stopping
            self._lifecycle.become_ready()

    async def reload(self, activate: Callable[[], None]) -> Replacement:
        """Load a new engine while the old one serves, then switch to it.

        Requests admitted before the switch finish on the old engine, which is closed after them.

        Args:
            activate: called at the switch, for other changes that must take effect with it.

        Raises:
            ReloadInProgress: another reload has not ended.
            ReloadFailed: the new model cannot be served, or was not ready in time; the old one is
                still served.
            NotReady, Draining: no model is served.
        """
        if self._reloading:
            raise reload_in_progress()
        old = self.open
        self._reloading = True
        try:
            new = await self._load_in_time()
        except Exception as error:
            logger.warning("reload failed, %s is still served: %s", old.info.title, error)
            raise model_unusable(error, old.info) from error
        finally:
            self._reloading = False
        self._use(new)
        activate()
        logger.info("%s is served instead of %s", new.info.title, old.info.title)
        replacement = Replacement(new.info, old.info)
        await old.retire()
        del old
        self._on_loaded()
        return replacement

    async def close(self) -> None:
        if self._engine:
            await self._engine.close()

    async def _load_in_time(self) -> Engine:
        """A new engine, loaded within ``reload_timeout_s``.

        A thread cannot be interrupted: after a timeout its current step runs to the end, and the
        result is dropped.
        """
        limit = self._settings.reload_timeout_s
        try:
            async with asyncio.timeout(limit) as timeout:
                return await self._new_engine()
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise StartupError(f"the model was not ready within {limit:g} s") from error

    async def _new_engine(self) -> Engine:
        classifier, threads = await load_and_warm_up(self._load)
        return Engine(
            classifier,
            threads,
            self._settings,
            on_batch=self._observe_batch,
            on_failure=lambda error: self._lifecycle.fail(f"inference failed: {error}"),
        )

    def _use(self, engine: Engine) -> None:
        self._engine = engine
        self._on_model(engine.classifier.profile, engine.info)

    def _observe_batch(self, batch: Batch, padding: int, jobs: Sequence[Job]) -> None:
        if batch.error is None:
            self._images += batch.size
            self._batches += 1
        self._on_batch(batch, padding, jobs)
