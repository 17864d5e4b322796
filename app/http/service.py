"""The parts of the service, built from the settings."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from app.config.cloud import read_contract
from app.config.process_plan import ProcessPlan
from app.config.secret_files import read_secret
from app.config.settings import ENV_PREFIX, Settings
from app.http.api_keys import ApiKeys, KeysError
from app.http.auth import Authenticator
from app.observability.batches import LocalBatchCounts
from app.observability.logs import log_request
from app.observability.metrics import Metrics
from app.observability.optional_tracing import open_tracing
from app.observability.record import RequestRecord
from app.serving.classifier import Classifier
from app.serving.engine_manager import EngineManager
from app.serving.engines import Job, Replacement, keys_unusable
from app.serving.errors import ReloadFailed, ServiceError
from app.serving.held_bytes import HeldBytes
from app.serving.lifecycle import Lifecycle
from app.serving.permits import CountedPermits
from app.serving.pipeline import Pipeline
from app.serving.side_thread import SideThread
from app.serving.timings import Batch

if TYPE_CHECKING:  # OpenTelemetry is imported only where requests are traced
    from app.observability.tracing import Tracing

logger = logging.getLogger(__name__)


class ReloadFlag(Protocol):
    """A gauge that is 1 after a reload that failed."""

    def set(self, value: float) -> None: ...


class RequestObserver(Protocol):
    """Counts finished requests."""

    def observe(self, record: RequestRecord) -> None: ...

    def observe_refusal(self, error: ServiceError) -> None: ...


class ServiceMetrics(Protocol):
    """The metrics of the service, kept in this process or in another."""

    @property
    def requests(self) -> RequestObserver: ...

    @property
    def reload_failed(self) -> ReloadFlag: ...

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that a client accepts, and its media type."""


class Service:
    """The parts of the service that routes and middleware use.

    Args:
        keys: the API keys; without them, routes that require one are open.
        plan: the processes of the service.
        environ: variables of a cloud's contract; see `app.config.cloud`.

    Attributes:
        has_admin_token: whether the routes below ``/admin`` exist.

    Raises:
        SettingsError: a setting is invalid.
    """

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        pipeline: Pipeline,
        metrics: ServiceMetrics,
        keys: ApiKeys | None,
        tracing: "Tracing | None",
        plan: ProcessPlan,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.settings = settings
        self.lifecycle = lifecycle
        self.pipeline = pipeline
        self.metrics = metrics
        self.tracing = tracing
        self.plan = plan
        self.contract = read_contract(settings, environ)
        self._keys = keys
        admin_token = read_admin_token(settings)
        self.has_admin_token = admin_token is not None
        self.auth = Authenticator(keys, admin_token)
        self.side_thread = SideThread()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the model in the background, and stop everything on exit."""
        loading = asyncio.create_task(self.pipeline.start())
        loading.add_done_callback(partial(_report_defect, self.lifecycle))
        with suppress(asyncio.CancelledError):  # the process is stopped at once
            yield
            loading.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await loading
            await self.pipeline.stop()
            self.side_thread.stop()
            if self.tracing:
                await self.tracing.close()

    async def reload(self) -> Replacement:
        """Reload the model and the API keys, both or neither; see `EngineManager.reload`."""
        try:
            replacement = await self.pipeline.reload(self._read_new_keys())
        except ReloadFailed:
            self.metrics.reload_failed.set(1)
            raise
        self.metrics.reload_failed.set(0)
        return replacement

    def observe(self, record: RequestRecord) -> None:
        """Log and count a finished request."""
        log_request(record)
        self.metrics.requests.observe(record)
        if record.trace:
            record.trace.end(record)

    def _read_new_keys(self) -> Callable[[], None]:
        """Read the API keys, and return a function that activates them; raises `ReloadFailed`."""
        if not self._keys:
            return lambda: None
        try:
            return self._keys.read_again()
        except KeysError as error:
            logger.warning("not reloaded: %s", error)
            raise keys_unusable(error) from error


def build_service(
    settings: Settings,
    load: Callable[[], Classifier],
    lifecycle: Lifecycle,
    on_loaded: Callable[[], None],
    plan: ProcessPlan,
    environ: Mapping[str, str],
) -> Service:
    """The service with all of its parts in this process.

    Args:
        load: makes the classifier, in an inference thread; see `app.loading.load_model`.
        lifecycle: the state, which the server reads and changes.
        on_loaded: called after each model that begins to serve.
        plan: why there is one process.

    Raises:
        KeysError: the file of API keys cannot be used.
        SettingsError: see `Service`; or requests cannot be traced.
    """
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None
    tracing = open_tracing() if settings.tracing else None
    batches = LocalBatchCounts()
    metrics = Metrics(lambda: [batches])
    lifecycle.listen(metrics.show_state)

    def observe_batch(batch: Batch, padding: int, jobs: Sequence[Job]) -> None:
        if batch.error is None:
            batches.add(batch.size, padding, batch.seconds)
        if tracing:
            tracing.observe_batch(batch, padding, jobs)

    engines = EngineManager(
        settings,
        lifecycle,
        load,
        on_model=metrics.show_model,
        on_loaded=on_loaded,
        on_batch=observe_batch,
    )
    permits = CountedPermits(settings.max_queue_size)
    held = HeldBytes(settings.max_queue_bytes)
    pipeline = Pipeline(settings, lifecycle, engines, permits, held)
    metrics.serving.watch(pipeline, settings)
    return Service(settings, lifecycle, pipeline, metrics, keys, tracing, plan, environ)


def read_admin_token(settings: Settings) -> str | None:
    """The admin token, from its variable or file; raises `SettingsError` if it is invalid."""
    token = settings.admin_token.get_secret_value() if settings.admin_token else None
    return read_secret(f"{ENV_PREFIX}ADMIN_TOKEN", token, settings.admin_token_file)


def _report_defect(lifecycle: Lifecycle, loading: "asyncio.Task[None]") -> None:
    """Fail after an unexpected exception; otherwise loading has ended with READY or FAILED."""
    if not loading.cancelled() and (error := loading.exception()):
        logger.error("unexpected error while loading", exc_info=error)
        lifecycle.fail(f"loading failed: {error!r}")
