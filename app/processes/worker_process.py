"""A worker process: HTTP and decoding, for engines in other processes. Needs no PyTorch."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Mapping
from typing import Any

from app.config.process_plan import ONE_PROCESS, ProcessPlan
from app.config.settings import Settings, SettingsError
from app.http.app import application
from app.http.service import Service
from app.observability.logs import set_up_logs
from app.observability.optional_tracing import open_tracing
from app.processes.channel import Channel
from app.processes.child import Child, Prepare, settings_from_json
from app.processes.engine_link import EngineLink, SlotPermits
from app.processes.messages import Json, Message
from app.processes.remote_engine import RemoteEngines, RemoteModel
from app.processes.shared_state import (
    Questions,
    RemoteMetrics,
    SharedHeldBytes,
    SharedKeys,
    SharedLifecycle,
)
from app.processes.slots import SlotArea
from app.processes.status import HEARTBEAT
from app.processes.worker_server import WorkerServer
from app.server.connection_limit import (
    ConnectionLimit,
    choose_bound,
    count_open_files,
    raise_open_files,
)
from app.server.server import http_config
from app.serving.classifier import ModelInfo
from app.serving.engines import RETRY_ELSEWHERE, Replacement
from app.serving.errors import (
    Draining,
    NotReady,
    ReloadFailed,
    ReloadInProgress,
    ServiceError,
)
from app.serving.heap import keep_heap
from app.serving.pipeline import Pipeline

RELOAD_ERRORS: dict[str, type[ServiceError]] = {
    error.__name__: error for error in (ReloadFailed, ReloadInProgress)
}

logger = logging.getLogger(__name__)


class WorkerProcess:
    """Connects the application to the supervisor and the engines.

    Args:
        prepare: see `app.preparation.RemotePreparer`.
    """

    def __init__(self, child: Child, prepare: Prepare) -> None:
        self._child = child
        self._prepare = prepare
        self._number = child.inherited.number
        self._status = child.page.worker(self._number)
        self._control: Channel | None = None
        self._settings: asyncio.Future[dict[str, Any]] = asyncio.Future()
        self._questions = Questions(self._send)
        self._keys: dict[int, dict[bytes, str]] = {}
        self._engines: RemoteEngines | None = None
        self._service: Service | None = None
        self._plan = ONE_PROCESS
        self._lifecycle: SharedLifecycle | None = None
        self._server: WorkerServer | None = None
        self._max_pixels = 0
        self._served = False

    async def run(self) -> None:
        """Serve until the supervisor says stop."""
        self._control = await Channel.open(self._child.control, self._on_message, self._orphaned)
        start = await self._settings
        settings = settings_from_json(start["settings"])
        set_up_logs(settings.log_level, settings.log_format, f"worker-{self._number}")
        self._max_pixels = settings.max_pixels
        try:
            server, pipeline = await self._build(settings, start)
        except SettingsError as error:
            self._send({"unusable": str(error)})
            self._control.close()
            return
        beating = asyncio.create_task(self._beat(pipeline))
        self._server = server
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until now it ends the process
        self._send({"started": self._number})
        keep_heap()
        await server.serve()
        self._served = True
        beating.cancel()
        self._control.close()

    async def _build(
        self, settings: Settings, start: Mapping[str, Any]
    ) -> tuple[WorkerServer, Pipeline]:
        child, page = self._child, self._child.page
        self._lifecycle = lifecycle = SharedLifecycle(page, self._fail)
        permits = SlotPermits(child.slots, self._number)
        links = [
            EngineLink(number, permits, lambda reason: None)
            for number in range(len(child.inherited.engines))
        ]
        for link, descriptor in zip(links, child.inherited.engines, strict=True):
            await link.open(socket.socket(fileno=descriptor))
        tracing = open_tracing() if settings.tracing else None
        self._engines = RemoteEngines(
            lifecycle,
            page,
            child.slots,
            links,
            on_unused=lambda generation: self._send({"unused": generation}),
            reload=self._reload,
            spans=tracing,
        )
        held = SharedHeldBytes(settings.max_queue_bytes, page, self._number)
        pipeline = Pipeline(settings, lifecycle, self._engines, permits, held)
        assert child.records
        metrics = RemoteMetrics(child.records, self._send, self._questions.ask)
        service = Service(
            settings,
            lifecycle,
            pipeline,
            metrics,
            SharedKeys(page, self._keys) if start["keys"] else None,
            tracing,
            self._plan,
        )
        self._service = service
        most, reserve = choose_bound(raise_open_files(), count_open_files())
        limit = CountedLimit(most, reserve, self._status, lambda: self._send({"refused": 1}))
        self._send({"max_connections": most})
        app = application(service)
        config = http_config(settings, app, lifecycle, limit, metrics.observe_refusal)
        listeners = [socket.socket(fileno=fd) for fd in child.inherited.listeners]
        server = WorkerServer(
            config,
            listeners,
            lifecycle,
            page,
            self._number,
            on_sigterm=lambda: self._send({"sigterm": self._number}),
        )
        return server, pipeline

    async def _beat(self, pipeline: Pipeline) -> None:
        while True:
            self._status.beat()
            self._status.stuck_decoders = pipeline.stuck_decoders
            await asyncio.sleep(HEARTBEAT / 2)

    def _send(self, content: dict[str, Any]) -> None:
        if self._control:
            self._control.send(Json(content))

    def _on_message(self, message: Message) -> None:
        match message:
            case Json(content={"settings": _} as start):
                self._plan = ProcessPlan(*start["plan"])
                self._settings.set_result(start)
            case Json(content={"model": int(generation)} as content):
                self._add_model(generation, content)
            case Json(content={"plan": [int(workers), str(reason)]}):
                self._plan = ProcessPlan(workers, reason)
                if self._service:
                    self._service.plan = self._plan
            case Json(content={"of": int(generation), "max_batch_size": int(size)}):
                assert self._engines
                self._engines.limit_batches(generation, size)
            case Json(content={"failure": str(reason)}) if self._lifecycle:
                self._lifecycle.failure = reason
            case Json(content={"stop": bool(now)}) if self._server:
                self._server.stop(now=now)
            case Json(content={"replaced": int(generation)}):
                assert self._engines
                self._keys.pop(generation, None)
                self._engines.release_replaced(generation)
            case Json(content={"answer": int(number)} as content, data=data):
                self._questions.answer(number, content, data)

    def _add_model(self, generation: int, content: dict[str, Any]) -> None:
        """Prepare images for another model, which serves once all workers can."""
        assert self._engines
        self._child.data.map()
        area = SlotArea(self._child.data.view, content["begin"], content["slot_bytes"])
        self._keys[generation] = {
            bytes.fromhex(digest): name for digest, name in content["keys"].items()
        }
        preparer = self._prepare(content["spec"], self._max_pixels)
        info = ModelInfo(**content["info"])
        self._engines.add(RemoteModel(generation, info, content["devices"], preparer, area))
        self._send({"known": generation})

    async def _reload(self) -> Replacement:
        """Have the supervisor reload model and keys."""
        content, _ = await self._questions.ask({"reload": True})
        if error := content.get("error"):
            if kind := RELOAD_ERRORS.get(content["kind"]):
                raise kind(error)
            refusal = Draining if content["kind"] == "Draining" else NotReady
            raise refusal(error, retry_after=RETRY_ELSEWHERE)
        return Replacement(ModelInfo(**content["new"]), ModelInfo(**content["old"]))

    def _fail(self, reason: str) -> None:
        """End this worker, which the supervisor replaces."""
        logger.error("worker %d failed: %s", self._number, reason)
        asyncio.get_running_loop().call_later(0.1, os._exit, 1)

    def _orphaned(self, reason: str) -> None:
        """End with the channel to the supervisor, whichever side has closed it."""
        os._exit(0 if self._served else 1)


class CountedLimit(ConnectionLimit):
    """A limit on connections whose number other workers see."""

    def __init__(self, most: int, reserve: int, status: Any, on_refused: Any) -> None:
        super().__init__(most, reserve, on_refused)
        self._status = status

    def enter(self, connection: Any) -> bool:
        entered = super().enter(connection)
        self._status.connections = len(self)
        return entered

    def leave(self, connection: Any) -> None:
        super().leave(connection)
        self._status.connections = len(self)
