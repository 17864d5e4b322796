"""The supervisor: opens the port, starts and watches engines and workers, keeps state and metrics.

It imports neither PyTorch nor the application, so it starts at once and hardly ever ends.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from app.config.settings import Settings, SettingsError
from app.http.api_keys import KeysError, read_keys
from app.observability.metrics import Metrics
from app.processes.channel import socket_pair
from app.processes.child import Inheritance, settings_to_json, table_begin
from app.processes.family import Deaths, EngineChild, WorkerChild, channels
from app.processes.memory import SharedMemory
from app.processes.messages import Json, Message
from app.processes.models import Models
from app.processes.slots import Slots
from app.processes.status import HEARTBEAT, StatusPage
from app.server.listeners import close_all, open_listeners, url_of
from app.serving.classifier import ModelInfo
from app.serving.engines import Progress, Replacement
from app.serving.errors import (
    Draining,
    NotReady,
    ReloadFailed,
    ReloadInProgress,
    ServiceError,
    StartupError,
)
from app.serving.lifecycle import Lifecycle, State

WORKER_SILENCE = 10.0  # seconds after which a worker that does not respond is killed
ENGINE_SILENCE = 30.0
STOP_SECONDS = 5.0  # for workers to end, beyond the timeout of the drain
RETRY_ELSEWHERE = 2

logger = logging.getLogger(__name__)


def supervise(settings: Settings) -> str | None:
    """Serve with several processes until stopped.

    Returns:
        Why the service failed; ``None`` after a clean stop.

    Raises:
        SettingsError: the service cannot start with these settings.
    """
    listeners = open_listeners(settings.host, settings.port)
    try:
        keys = read_keys(settings.api_keys_file) if settings.api_keys_file else {}
        supervisor = Supervisor(settings, listeners, keys)
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
        listeners: Sequence[socket.socket],
        keys: Mapping[bytes, str],
    ) -> None:
        workers, engines = settings.http_workers, settings.engines
        self._settings = settings
        self._listeners = listeners
        self._keys = keys
        self._slots_count = settings.max_queue_size
        self._table = SharedMemory.create(table_begin() + Slots.size(self._slots_count))
        self._data = SharedMemory.create(4096)
        self.page = StatusPage(self._table)
        self.page.engines = engines
        self.slots = Slots(self._table, table_begin(), self._slots_count)
        self._engines = [EngineChild(number, self._on_engine) for number in range(engines)]
        self._workers: list[WorkerChild | None] = [None] * workers
        self.models = Models(
            self.page, self._data, self._slots_count, self._engines, self._running_workers
        )
        self.lifecycle = Lifecycle()
        self._metrics = Metrics()
        self._metrics.serving.watch(self, settings)
        self._metrics.workers.watch(workers, lambda n: self.page.worker(n).connections)
        self._metrics.connections.open.set_function(
            lambda: sum(self.page.worker(n).connections for n in range(workers))
        )
        self._deaths = Deaths()
        self._reloading = False
        self._stopping: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._unusable = ""  # why the settings cannot be used
        self._grace = 0.0  # no traffic is routed to a service that was never ready
        self._tasks: set[asyncio.Task[Any]] = set()

    # What `ServingMetrics.watch` shows.

    @property
    def info(self) -> ModelInfo | None:
        return self.models.current.info if self.models.current else None

    @property
    def progress(self) -> Progress:
        engines = [self.page.engine(engine.number) for engine in self._engines]
        return Progress(queue_depth=sum(engine.queue_depth for engine in engines))

    @property
    def admitted(self) -> int:
        return self.slots.used

    @property
    def held_bytes(self) -> int:
        return sum(self.page.worker(n).held_bytes for n in range(len(self._workers)))

    @property
    def stuck_decoders(self) -> int:
        return sum(self.page.worker(n).stuck_decoders for n in range(len(self._workers)))

    async def run(self) -> str | None:
        """Serve until stopped; returns why the service failed, if it did."""
        loop = asyncio.get_running_loop()
        for handled in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(handled, self._on_signal, handled)
        self.lifecycle.listen(self._on_state)
        self.page.beat()
        self._start(self._watch())
        for engine in self._engines:
            await self._start_engine(engine)
        for number in range(len(self._workers)):
            await self._start_worker(number)
        logger.info("listening on %s", ", ".join(map(url_of, self._listeners)))
        self._start(self._load())
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

    def _running_workers(self) -> list[WorkerChild]:
        return [worker for worker in self._workers if worker and worker.running]

    # Processes

    async def _start_engine(self, engine: EngineChild) -> None:
        ours, theirs = socket_pair()
        descriptors, their_descriptors = socket_pair()
        inherited = self._inheritance(engine.number, theirs, descriptors=their_descriptors.fileno())
        self.page.engine(engine.number).beat()
        engine.attach(descriptors)
        await engine.start("engine", inherited, ours)
        theirs.close()
        their_descriptors.close()
        engine.send(settings=settings_to_json(self._settings))
        self._start(self._watch_engine(engine))

    async def _start_worker(self, number: int) -> None:
        worker = WorkerChild(number, self._on_worker)
        control, their_control = socket_pair()
        ends, engine_ends = channels(len(self._engines))
        inherited = self._inheritance(
            number,
            their_control,
            engines=tuple(end.fileno() for end in ends),
            listeners=tuple(listener.fileno() for listener in self._listeners),
        )
        self.page.worker(number).clear()
        self.page.worker(number).beat()
        for engine, end in zip(self._engines, engine_ends, strict=True):
            engine.introduce(number, end)
        await worker.start("worker", inherited, control)
        for end in (their_control, *ends):
            end.close()
        self._workers[number] = worker
        worker.send(
            settings=settings_to_json(self._settings),
            workers=len(self._workers),
            keys=self._settings.api_keys_file is not None,
        )
        self._start(self._watch_worker(worker))

    def _inheritance(self, number: int, control: socket.socket, **more: Any) -> Inheritance:
        return Inheritance(
            number,
            control=control.fileno(),
            table=self._table.descriptor,
            data=self._data.descriptor,
            slots=self._slots_count,
            **more,
        )

    async def _watch_engine(self, engine: EngineChild) -> None:
        code = await engine.wait()
        if not self._stopping:
            self.lifecycle.fail(f"engine {engine.number} ended with exit code {code}")

    async def _watch_worker(self, worker: WorkerChild) -> None:
        """Start another worker in place of one that has ended."""
        code = await worker.wait()
        number = worker.number
        self.page.worker(number).clear()
        if self._stopping:
            return
        logger.error("worker %d ended with exit code %d", number, code)
        self._deaths.add()
        self._metrics.workers.restarts.inc()
        if self._deaths.too_many:
            self.lifecycle.fail("workers keep ending; see their messages above")
            return
        await worker.all_gone.wait()
        self.slots.free_unsubmitted(number)
        await asyncio.sleep(self._deaths.delay)
        if not self._stopping:
            await self._start_worker(number)

    async def _watch(self) -> None:
        """Show that this process is alive, and kill those that are not."""
        while True:
            self.page.beat()
            for worker in self._running_workers():
                if self.page.worker(worker.number).silence > WORKER_SILENCE:
                    logger.error("worker %d does not respond and is killed", worker.number)
                    self.page.worker(worker.number).beat()
                    worker.kill()
            for engine in self._engines:
                if engine.running and self.page.engine(engine.number).silence > ENGINE_SILENCE:
                    logger.error("engine %d does not respond and is killed", engine.number)
                    self.page.engine(engine.number).beat()
                    engine.kill()
            await asyncio.sleep(HEARTBEAT)

    # Messages

    def _on_engine(self, engine: EngineChild, message: Message) -> None:
        match message:
            case Json(content={"batch": [size, padding, seconds]}):
                self._metrics.batches.count(size, padding, seconds)
            case Json(content={"gone": int(number)}):
                worker = self._workers[number]
                if worker:
                    worker.gone.add(engine.number)
                    if len(worker.gone) == len(self._engines):
                        worker.all_gone.set()
            case Json(content={"failed": reason}):
                self.lifecycle.fail(str(reason))

    def _on_worker(self, worker: WorkerChild, message: Message) -> None:
        match message:
            case Json(content={"request": list(summary)}):
                self._metrics.requests.count(*summary)
            case Json(content={"refusal": [status, reason]}):
                self._metrics.requests.count_refusal(status, reason)
            case Json(content={"unusable": reason}):
                self._unusable = str(reason)
                self._stop()
            case Json(content={"max_connections": int(most)}):
                self._metrics.connections.max.set(most * len(self._workers))
            case Json(content={"refused": _}):
                self._metrics.connections.refused.inc()
            case Json(content={"started": _}):
                self._start(self.models.introduce(worker))
            case Json(content={"question": int(number), "metrics": accept}):
                self._start(self._answer_metrics(worker, number, str(accept)))
            case Json(content={"question": int(number), "reload": _}):
                self._start(self._answer_reload(worker, number))

    async def _answer_metrics(self, worker: WorkerChild, number: int, accept: str) -> None:
        text, media_type = await self._metrics.exposition(accept)
        worker.send(text, answer=number, media_type=media_type)

    async def _answer_reload(self, worker: WorkerChild, number: int) -> None:
        try:
            replacement = await self.reload()
        except ServiceError as error:
            worker.send(answer=number, error=error.detail, kind=type(error).__name__)
        else:
            worker.send(answer=number, new=asdict(replacement.new), old=asdict(replacement.old))

    # The model

    async def _load(self) -> None:
        try:
            model = await self.models.load(self._keys)
            await self.models.switch(model)
        except StartupError as error:
            self.lifecycle.fail(str(error))
            return
        self._metrics.show_model(model.info)
        if self.lifecycle.state is State.LOADING:
            self.lifecycle.become_ready()

    async def reload(self) -> Replacement:
        """Load model and API keys again, and use both or neither.

        Raises:
            ReloadInProgress, ReloadFailed, NotReady, Draining: see `Engines.reload`.
        """
        old = self.models.current
        if not (old and self.lifecycle.serving):
            state = self.lifecycle.state
            refusal = Draining if state is State.DRAINING else NotReady
            raise refusal(f"the service is {state}", retry_after=RETRY_ELSEWHERE)
        if self._reloading:
            raise ReloadInProgress("another model is being loaded; try again when it serves")
        self._reloading = True
        try:
            path = self._settings.api_keys_file
            model = await self.models.load(read_keys(path) if path else {})
            await self.models.switch(model)
        except KeysError as error:
            logger.warning("not reloaded: %s", error)
            self._metrics.reload_failed.set(1)
            raise ReloadFailed(f"{error}; keys and model stay as they are") from error
        except StartupError as error:
            logger.warning("reload failed, %s is still served: %s", old.info.title, error)
            self._metrics.reload_failed.set(1)
            raise ReloadFailed(f"{error}; {old.info.title} is still served") from error
        finally:
            self._reloading = False
        self._metrics.reload_failed.set(0)
        self._metrics.show_model(model.info)
        logger.info("%s is served instead of %s", model.info.title, old.info.title)
        await self.models.retire(old)
        return Replacement(model.info, old.info)

    # The end

    def _on_state(self, state: State) -> None:
        self.page.state = state
        self._metrics.show_state(state)
        if state is State.FAILED:
            logger.error("failed: %s", self.lifecycle.failure)
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
            for worker in self._running_workers():
                worker.kill(signal.SIGTERM)
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
        """End the workers, which answer the requests that they have, and then the engines."""
        close_all(self._listeners)
        workers = self._running_workers()
        for worker in workers:
            worker.kill(signal.SIGTERM)
        await end_all(workers, self._settings.drain_timeout_s + STOP_SECONDS)
        engines = [engine for engine in self._engines if engine.running]
        for engine in engines:
            engine.send(stop=True)
        await end_all(engines, STOP_SECONDS)
        self._ended.set()


async def end_all(children: Sequence[WorkerChild | EngineChild], seconds: float) -> None:
    """Wait for processes to end, and kill those that have not after some seconds."""
    ends = [asyncio.ensure_future(child.wait()) for child in children]
    if ends:
        await asyncio.wait(ends, timeout=seconds)
    for child in children:
        if child.running:
            logger.error("process %s has not ended and is killed", child.pid)
            child.kill()
    await asyncio.gather(*ends)
