"""The composition root: builds every part of the service and connects them."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from app.config.cloud import Contract, read_contract
from app.config.secret_files import read_secret
from app.config.settings import ENV_PREFIX, Settings, SettingsError
from app.http.admission_check import Door
from app.http.api_keys import ApiKeys, KeysError
from app.http.hosts import AllowedHosts, allowed_hosts
from app.http.middleware import RequestScope
from app.http.origins import CORS, CrossSiteCheck, parse_origins
from app.http.problems import add_error_handlers
from app.http.routes import admin, cloud, explain, health, metrics, page, predict
from app.http.routes.oip import routes as oip
from app.observability.logs import ROUTINE, log_request
from app.observability.metrics import Metrics
from app.observability.record import RequestRecord
from app.serving.classifier import Classifier
from app.serving.engine import Job
from app.serving.engine_manager import Replacement
from app.serving.errors import ReloadFailed
from app.serving.lifecycle import Lifecycle
from app.serving.pipeline import Pipeline
from app.serving.side_thread import SideThread
from app.serving.timings import Batch

if TYPE_CHECKING:  # what it imports is needed where requests are traced alone
    from app.observability.tracing import Tracing

logger = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    load: Callable[[], Classifier],
    *,
    lifecycle: Lifecycle | None = None,
    on_loaded: Callable[[], None] = lambda: None,
    environ: Mapping[str, str] = os.environ,
) -> FastAPI:
    """The whole service as one ASGI application.

    Args:
        load: makes the classifier, in an inference thread; see `app.loading.load_model`.
        lifecycle: the state, which the server reads and changes.
        on_loaded: called after each model that begins to serve.
        environ: variables of a cloud's contract; see `app.config.cloud`.

    The application's ``state.reload`` loads model and keys again, and uses both or neither. The
    server counts connections and refused requests in ``state.metrics``.

    Raises:
        KeysError: the file of API keys cannot be used.
        SettingsError: a cloud's contract cannot be kept, requests cannot be traced, or a secret,
            a host, an origin or the path prefix cannot be used.
    """
    lifecycle = lifecycle or Lifecycle()
    meters = Metrics()
    lifecycle.listen(meters.show_state)
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None
    contract = read_contract(settings, environ)
    routine = ROUTINE | ({contract.health_route} if contract else set())
    tracing = open_tracing(routine) if settings.tracing else None
    hosts = AllowedHosts(allowed_hosts(settings.allowed_hosts, settings.host), routine)
    origins = parse_origins(settings.cors_origins)

    def observe_batch(batch: Batch, padding: int, jobs: Sequence[Job]) -> None:
        meters.batches.observe(batch, padding)
        if tracing:
            tracing.observe_batch(batch, padding, jobs)

    pipeline = Pipeline(
        settings,
        lifecycle,
        load,
        on_model=meters.show_model,
        on_loaded=on_loaded,
        on_batch=observe_batch,
    )
    meters.serving.watch(pipeline, settings)
    side = SideThread()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(pipeline.start())
        loading.add_done_callback(partial(_report_defect, lifecycle))
        with suppress(asyncio.CancelledError):  # the process ends at once
            yield
            loading.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await loading
            await pipeline.stop()
            side.stop()
            if tracing:
                await tracing.close()

    async def reload() -> Replacement:
        try:
            replacement = await pipeline.reload(read_new_keys(keys) if keys else lambda: None)
        except ReloadFailed:
            meters.reload_failed.set(1)
            raise
        meters.reload_failed.set(0)
        return replacement

    def observe(record: RequestRecord) -> None:
        log_request(record, routine)
        meters.requests.observe(record)
        if record.trace:
            record.trace.end(record)

    app = FastAPI(
        title="xcit-serve",
        summary="XCiT image classification: one image in, its most likely classes out.",
        lifespan=lifespan,
        docs_url=None,  # which would load its scripts from elsewhere; see app.http.routes.page
        redoc_url=None,
        redirect_slashes=False,  # whose target would be the Host that the client chose
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.reload = reload
    app.state.metrics = meters
    door, guarded = Door(pipeline, keys), ["/predict", "/predict/batch", "/explain"]
    predictions = predict.router(pipeline, keys, side, max_images=settings.max_queue_size)
    routers = [
        predictions,
        explain.router(pipeline, keys, side),
        health.router(lifecycle, pipeline),
        oip.router(
            pipeline,
            lifecycle,
            keys,
            door,
            side,
            max_rows=settings.max_queue_size,
            max_bytes=settings.max_body_bytes,
        ),
        metrics.router(meters.registry, keys if settings.metrics_need_key else None),
        page.router(settings.root_path),
    ]
    if token := read_admin_token(settings):
        routers.append(admin.router(reload, token))
    if contract:
        leave_to(contract, routers)
        routers.insert(
            0,
            cloud.router(
                contract, pipeline, lifecycle, keys, side, max_images=settings.max_queue_size
            ),
        )
        guarded.append(contract.predict_route)
    for router in routers:
        app.include_router(router)
        check_root_path(settings.root_path, router.routes)
    add_error_handlers(app)
    app.add_middleware(
        RequestScope,
        max_body_bytes=settings.max_body_bytes,
        observe=observe,
        doors={("POST", path): door for path in guarded},
        direct={
            ("POST", route.path): route.endpoint
            for route in predictions.routes
            if isinstance(route, APIRoute)
        },
        begin_trace=tracing.begin if tracing else None,
        checks=[hosts.check, CrossSiteCheck(origins).check],
        root_path=settings.root_path,
    )
    if origins:
        app.add_middleware(CORSMiddleware, allow_origins=origins, **CORS)
    return app


def leave_to(contract: Contract, routers: Sequence[APIRouter]) -> None:
    """Take away those of our own routes that a cloud names its own after."""
    its = {contract.health_route, contract.predict_route}
    for router in routers:
        router.routes[:] = [
            route
            for route in router.routes
            if not (isinstance(route, APIRoute) and route.path in its)
        ]


def read_admin_token(settings: Settings) -> str | None:
    """The admin token, given directly or in a file; raises `SettingsError` if it is unusable."""
    token = settings.admin_token.get_secret_value() if settings.admin_token else None
    return read_secret(f"{ENV_PREFIX}ADMIN_TOKEN", token, settings.admin_token_file)


def check_root_path(root_path: str, routes: Sequence[BaseRoute]) -> None:
    """Refuse a prefix that could be the beginning of a route: raises `SettingsError`.

    Of a proxy that strips the prefix, such a route would lose its beginning once more.
    """
    first = root_path.split("/")[1:2]
    for route in routes:
        if first and isinstance(route, APIRoute) and route.path.split("/")[1:2] == first:
            raise SettingsError(
                f"{ENV_PREFIX}ROOT_PATH={root_path}: /{first[0]} is a route of the service; "
                "choose another prefix"
            )


def read_new_keys(keys: ApiKeys) -> Callable[[], None]:
    """What puts the keys of the file to use; raises `ReloadFailed` if the file cannot be used."""
    try:
        return keys.read_again()
    except KeysError as error:
        logger.warning("not reloaded: %s", error)
        raise ReloadFailed(f"{error}; keys and model stay as they are") from error


def open_tracing(routine: Set[str]) -> "Tracing":
    """What traces all but ``routine`` requests; raises `SettingsError` if it cannot be had."""
    try:
        from app.observability.tracing import Tracing

        return Tracing(routine)
    except ImportError as error:
        raise SettingsError(
            f"{ENV_PREFIX}TRACING needs OpenTelemetry: pip install 'xcit-serve[tracing]'"
        ) from error
    except ValueError as error:  # out of OpenTelemetry
        raise SettingsError(
            f"an OTEL_… variable has a value that cannot be used: {error}"
        ) from error


def _report_defect(lifecycle: Lifecycle, loading: "asyncio.Task[None]") -> None:
    """Loading ends by itself with READY or FAILED; an exception out of it is a defect."""
    if not loading.cancelled() and (error := loading.exception()):
        logger.error("unexpected error while loading", exc_info=error)
        lifecycle.fail(f"loading failed: {error!r}")
