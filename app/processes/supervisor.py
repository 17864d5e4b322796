"""The supervisor: opens the port, starts and watches engines and workers, keeps state and metrics.

It imports neither PyTorch nor the application, so it starts at once and hardly ever ends.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from types import FrameType
from typing import Any

from app.config.cpu_quota import usable_cores
from app.config.memory import memory_limit, warn_of_memory
from app.config.process_plan import ProcessPlan
from app.config.settings import Settings, SettingsError
from app.http.api_keys import KeysError, read_keys
from app.processes.children import EngineChild, WorkerChild
from app.processes.family import Family
from app.processes.messages import Json, MalformedMessage, Message
from app.processes.models import Models
from app.processes.service_metrics import ServiceMetrics
from app.server.listeners import close_all, open_listeners, url_of
from app.serving.engines import (
    Replacement,
    keys_unusable,
    model_unusable,
    not_serving,
    reload_in_progress,
)
from app.serving.errors import ServiceError, StartupError
from app.serving.lifecycle import Lifecycle, State

logger = logging.getLogger(__name__)


def supervise(settings: Settings, plan: ProcessPlan, module: str = "app.processes") -> str | None:
    """Serve with several processes until stopped.

    Args:
        plan: how many processes.
        module: that children run; see `app.processes.__main__`.

    Returns:
        Why the service failed; ``None`` after a clean stop.

    Raises:
        SettingsError: the service cannot start with these settings.
    """
    logger.info("HTTP workers: %d (%s)", plan.workers, plan.reason)
    listeners = open_listeners(settings.host, settings.port)
    try:
        keys = read_keys(settings.api_keys_file) if settings.api_keys_file else {}
        supervisor = Supervisor(settings, plan, listeners, keys, module)
        return asyncio.run(supervisor.run())
    except StartupError as error:
        return str(error)
    finally:
        close_all(listeners)


class Supervisor:
    """Runs the processes of the service."""

    def __init__(
        self,
        settings: Settings,
        plan: ProcessPlan,
        listeners: Sequence[socket.socket],
        keys: Mapping[bytes, str],
        module: str,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._listeners = listeners
        self._keys = keys
        self.lifecycle = Lifecycle()
        self.family = Family(
            settings,
            plan,
            listeners,
            module,
            on_engine=self._on_engine,
            on_worker=self._on_worker,
            on_restart=lambda: self._metrics.workers.restarts.inc(),
            on_failure=self.lifecycle.fail,
            start=self._start,
        )
        self.page = self.family.page
        self.models = Models(
            self.page,
            self.family.data,
            settings.max_queue_size,
            self.family.engines,
            self.family.started_workers,
        )
        self._metrics = ServiceMetrics(settings, self.family, self.models)
        self._reloading = False
        self._stopping: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._unusable = ""  # why the settings cannot be used
        self._grace = 0.0  # no traffic is routed to a service that was never ready
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> str | None:
        """Serve until stopped; returns why the service failed, if it did."""
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: FrameType | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: the process is ending
                loop.call_soon_threadsafe(self._on_signal, number)

        for handled in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(handled, handle)
        self.lifecycle.listen(self._on_state)
        await self.family.start()
        if not self._stopping:
            logger.info("listening on %s", ", ".join(map(url_of, self._listeners)))
            self._start(self._load())
            self._start(self._metrics.count_records_often())
        await self._ended.wait()
        if self._unusable:
            raise SettingsError(self._unusable)
        return self.lifecycle.failure

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task)

    def _on_task(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("unexpected error", exc_info=error)
            self.lifecycle.fail(f"the supervisor failed: {error!r}")

    def _on_engine(self, engine: EngineChild, message: Message) -> None:
        match message:
            case Json(content={"gone": int(number)}):
                self.family.release(number, engine)
            case Json(content={"of": int(generation), "max_batch_size": int(size)}):
                self.models.limit_batches(engine, generation, size)
            case Json(content={"failed": reason}):
                self.lifecycle.fail(str(reason))
            case Json(content={"dropped": int(number)}):
                self._metrics.workers.dropped.inc(number)
            case Json(content={"unusable": reason}):
                self._refuse_settings(str(reason))
            case Json(content={"loaded": _} | {"load_failed": _} | {"serving": _} | {"retired": _}):
                pass  # answers that nobody waits for
            case _:
                raise MalformedMessage("an unknown message")

    def _on_worker(self, worker: WorkerChild, message: Message) -> None:
        match message:
            case Json(content={"request": _} | {"refusal": _} as record):
                self._metrics.count(record)
            case Json(content={"unusable": reason}):
                self._refuse_settings(str(reason))
            case Json(content={"max_connections": int(most)}):
                self._metrics.connections.max.set(most * self.page.workers)
            case Json(content={"refused": _}):
                self._metrics.connections.refused.inc()
            case Json(content={"dropped": int(number)}):
                self._metrics.workers.dropped.inc(number)
            case Json(content={"started": _}):
                worker.started = True
                self._start(self.models.introduce(worker))
            case Json(content={"sigterm": _}):
                self.family.replace_soon(worker)
            case Json(content={"question": int(number), "metrics": accept}):
                self._start(self._metrics.answer(worker, number, str(accept)))
            case Json(content={"question": int(number), "reload": _}):
                self._start(self._answer_reload(worker, number))
            case Json(content={"known": _} | {"unused": _}):
                pass  # answers that nobody waits for
            case _:
                raise MalformedMessage("an unknown message")

    def _refuse_settings(self, reason: str) -> None:
        """Stop: a child cannot use the settings."""
        self._unusable = reason
        self._stop()

    async def _answer_reload(self, worker: WorkerChild, number: int) -> None:
        try:
            replacement = await self.reload()
        except ServiceError as error:
            worker.send(answer=number, error=error.detail, kind=type(error).__name__)
        else:
            worker.send(answer=number, new=asdict(replacement.new), old=asdict(replacement.old))

    async def _load(self) -> None:
        try:
            model = await self.models.load(self._keys)
            await self.models.switch(model)
        except StartupError as error:
            if not self._stopping:  # an engine that is stopped has not failed
                self.lifecycle.fail(str(error))
            return
        self._metrics.show_model(model.profile, *model.infos)
        cores = usable_cores()
        if self._plan.grows:
            self._plan = self._plan.grown(cores, model.busy_workers)
            logger.info("HTTP workers: %d (%s)", self._plan.workers, self._plan.reason)
            await self.family.add_workers(self._plan)
            self._metrics.watch_children()
        warn_of_memory(
            self._settings,
            cores,
            model.weight_bytes,
            memory_limit(),
            self._plan,
            slot_bytes=model.slot_bytes,
        )
        await self.family.all_workers_accept()
        if self.lifecycle.state is State.LOADING:
            self.lifecycle.become_ready()

    async def reload(self) -> Replacement:
        """Load model and API keys again, and use both or neither.

        Raises:
            ReloadInProgress, ReloadFailed, NotReady, Draining: see `Engines.reload`.
        """
        old = self.models.current
        if not (old and self.lifecycle.serving):
            raise not_serving(self.lifecycle.state)
        if self._reloading:
            raise reload_in_progress()
        self._reloading = True
        try:
            path = self._settings.api_keys_file
            model = await self.models.load(read_keys(path) if path else {})
            await self.models.switch(model)
        except KeysError as error:
            logger.warning("not reloaded: %s", error)
            self._metrics.reload_failed.set(1)
            raise keys_unusable(error) from error
        except StartupError as error:
            logger.warning("reload failed, %s is still served: %s", old.info.title, error)
            self._metrics.reload_failed.set(1)
            raise model_unusable(error, old.info) from error
        finally:
            self._reloading = False
        self._metrics.reload_failed.set(0)
        self._metrics.show_model(model.profile, *model.infos)
        logger.info("%s is served instead of %s", model.info.title, old.info.title)
        await self.models.retire(old)
        return Replacement(model.info, old.info)

    def _on_state(self, state: State) -> None:
        self.page.state = state
        self._metrics.show_state(state)
        if state is State.FAILED:
            logger.error("failed: %s", self.lifecycle.failure)
            for worker in self.family.workers():
                worker.send(failure=self.lifecycle.failure)
            self._stop_after(self._grace)
            return
        logger.info("%s", state)
        if state is State.READY:
            self._grace = self._settings.drain_delay_s

    def _on_signal(self, number: int) -> None:
        """Drain at the first signal, without delay for SIGINT; stop at once at the second."""
        logger.info("%s in state %s", signal.Signals(number).name, self.lifecycle.state)
        if number == signal.SIGHUP:
            self._start(self._reload_quietly())
        elif self.lifecycle.state in (State.DRAINING, State.FAILED):
            self._stop_after(0.0)
            for worker in self.family.workers():
                worker.send(stop=True)
        else:
            self.lifecycle.drain()
            self._stop_after(0.0 if number == signal.SIGINT else self._grace)

    async def _reload_quietly(self) -> None:
        try:
            await self.reload()
        except ServiceError as error:
            logger.info("%s", error)

    def _stop_after(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._stop)

    def _stop(self) -> None:
        if not self._stopping:
            self.page.refusing = True
            self._stopping = asyncio.create_task(self._stop_processes())
            self._stopping.add_done_callback(self._on_task)

    async def _stop_processes(self) -> None:
        await self.family.stop()
        self._ended.set()
