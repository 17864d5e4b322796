"""Engines and workers: started, watched, replaced and stopped."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

from app.config.cpu_quota import usable_cores
from app.config.process_plan import MAX_WORKERS, ProcessPlan
from app.config.settings import Settings
from app.processes.channel import socket_pair
from app.processes.child import Inheritance, ring_begin, ring_of, settings_to_json, table_begin
from app.processes.children import (
    MAX_DEATHS,
    STEADY,
    Deaths,
    EngineChild,
    WorkerChild,
    channels,
    exit_reason,
)
from app.processes.memory import SharedMemory
from app.processes.messages import Message
from app.processes.slots import Slots
from app.processes.status import HEARTBEAT, StatusPage
from app.server.listeners import close_all
from app.serving.lifecycle import State

WORKER_SILENCE = 10.0  # seconds after which a worker that does not respond is killed
ENGINE_SILENCE = 30.0
SIGNAL_SECONDS = 0.2  # within which all processes get a signal to all of them
ENDING_SECONDS = 1.0  # for a worker that has closed its channels to end
POLL_SECONDS = 0.01  # between looks at the status page
STOP_SECONDS = 5.0  # for processes to end, beyond the timeout of the drain

logger = logging.getLogger(__name__)


class Family:
    """The processes of the service, and the memory that they share.

    Args:
        module: that children run; see `app.processes.__main__`.
        on_engine, on_worker: called with a child and each message from it.
        on_restart: called when a worker has ended and is going to be replaced.
        on_failure: called with the reason when the service cannot continue.
        start: starts a task, and reports it if it fails.

    Attributes:
        records: of finished requests, by number of the worker.
    """

    def __init__(
        self,
        settings: Settings,
        plan: ProcessPlan,
        listeners: Sequence[socket.socket],
        module: str,
        *,
        on_engine: Callable[[EngineChild, Message], None],
        on_worker: Callable[[WorkerChild, Message], None],
        on_restart: Callable[[], None],
        on_failure: Callable[[str], None],
        start: Callable[[Any], None],
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._module = module
        self._listeners = listeners
        self._on_worker = on_worker
        self._on_restart = on_restart
        self._on_failure = on_failure
        self._start = start
        count = settings.max_queue_size
        workers = MAX_WORKERS if plan.grows else plan.workers
        self._table = SharedMemory.create(ring_begin(count, workers))
        self.records = [ring_of(self._table, count, number) for number in range(workers)]
        self.data = SharedMemory.create(4096)
        self.page = StatusPage(self._table)
        self.page.engines = len(plan.devices)
        self.page.workers = plan.workers
        self.slots = Slots(self._table, table_begin(), count)
        self.engines = [EngineChild(number, on_engine) for number in range(len(plan.devices))]
        self._workers: list[WorkerChild | None] = [None] * plan.workers
        self._deaths = Deaths()
        self._stopping = False

    def workers(self) -> list[WorkerChild]:
        """The workers that run."""
        return [worker for worker in self._workers if worker and worker.running]

    def started_workers(self) -> list[WorkerChild]:
        """The workers that can take models."""
        return [worker for worker in self.workers() if worker.started]

    def processes(self) -> dict[str, int]:
        """The process ids of engines and workers that run, by name."""
        return {
            f"{child.role}-{child.number}": child.pid
            for child in (*self.engines, *self.workers())
            if child.pid is not None
        }

    async def add_workers(self, plan: ProcessPlan) -> None:
        """Start the workers that a plan has more than the last one, and inform the others."""
        self._plan = plan
        self.page.workers = plan.workers
        for worker in self.workers():
            worker.send(plan=[plan.workers, plan.reason])
        for number in range(len(self._workers), plan.workers):
            self._workers.append(None)
            if not self._stopping:
                await self._start_worker(number)

    async def all_workers_accept(self) -> None:
        """Return when every worker accepts connections."""
        while not all(worker.running for worker in self.page.each_worker()):
            await asyncio.sleep(POLL_SECONDS)

    async def start(self) -> None:
        """Start all processes, and watch them."""
        self.page.beat()
        self._start(self._watch())
        for engine in self.engines:
            if not self._stopping:
                await self._start_engine(engine)
        for number in range(len(self._workers)):
            if not self._stopping:
                await self._start_worker(number)

    async def stop(self) -> None:
        """End the workers, which answer the requests that they have, and then the engines."""
        self._stopping = True
        close_all(self._listeners)
        workers = self.workers()
        for worker in workers:
            worker.send(stop=False)
            worker.kill(signal.SIGTERM)  # ends one that does not serve yet
        await end_all(workers, self._settings.drain_timeout_s + STOP_SECONDS)
        engines = [engine for engine in self.engines if engine.running]
        for engine in engines:
            if self.page.model:
                engine.send(stop=True)
            else:  # it has nothing to answer, and may not listen while it imports PyTorch
                engine.kill()
        await end_all(engines, STOP_SECONDS)

    def replace_soon(self, worker: WorkerChild) -> None:
        """Have a worker answer its requests and end, unless the whole service got SIGTERM, too."""

        def end() -> None:
            if self.page.state in (State.LOADING, State.READY):
                worker.send(stop=False)

        asyncio.get_running_loop().call_later(SIGNAL_SECONDS, end)

    def release(self, number: int, engine: EngineChild) -> None:
        """Note that an engine has released the slots of a worker that has ended.

        A worker that still runs after `ENDING_SECONDS` has lost an engine, and is replaced.
        """
        if worker := self._workers[number]:
            worker.released_by.add(engine.number)
            if len(worker.released_by) == len(self.engines):
                worker.released.set()
            if not self._stopping:
                asyncio.get_running_loop().call_later(ENDING_SECONDS, worker.kill)

    async def _start_engine(self, engine: EngineChild) -> None:
        ours, theirs = socket_pair()
        descriptors, their_descriptors = socket_pair()
        inherited = self._inheritance(
            engine.number,
            theirs,
            descriptors=their_descriptors.fileno(),
            cores=self._plan.cores,
        )
        self.page.engine(engine.number).start()
        engine.attach(descriptors)
        await engine.start(self._module, inherited, ours)
        theirs.close()
        their_descriptors.close()
        settings = self._settings.model_copy(update={"device": self._plan.devices[engine.number]})
        engine.send(settings=settings_to_json(settings))
        self._start(self._watch_engine(engine))

    async def _start_worker(self, number: int) -> None:
        worker = WorkerChild(number, self._on_worker)
        control, their_control = socket_pair()
        ends, engine_ends = channels(len(self.engines))
        inherited = self._inheritance(
            number,
            their_control,
            engines=tuple(end.fileno() for end in ends),
            listeners=tuple(listener.fileno() for listener in self._listeners),
        )
        self.page.worker(number).clear()
        self.page.worker(number).start()
        for engine, end in zip(self.engines, engine_ends, strict=True):
            engine.introduce(number, end)
        await worker.start(self._module, inherited, control)
        for end in (their_control, *ends):
            end.close()
        self._workers[number] = worker
        decoders = self._settings.preprocess_workers or self._plan.decoders(usable_cores())
        settings = self._settings.model_copy(update={"preprocess_workers": decoders})
        worker.send(
            settings=settings_to_json(settings),
            plan=[self._plan.workers, self._plan.reason],
            keys=self._settings.api_keys_file is not None,
        )
        self._start(self._watch_worker(worker))

    def _inheritance(self, number: int, control: socket.socket, **more: Any) -> Inheritance:
        return Inheritance(
            number,
            control=control.fileno(),
            table=self._table.descriptor,
            data=self.data.descriptor,
            slots=self.slots.count,
            **more,
        )

    async def _watch_engine(self, engine: EngineChild) -> None:
        code = await engine.wait()
        if not self._stopping:
            self._on_failure(f"engine {engine.number} {exit_reason(code)}")

    async def _watch_worker(self, worker: WorkerChild) -> None:
        """Start another worker when one has ended."""
        code = await worker.wait()
        number = worker.number
        self.page.worker(number).clear()
        if code == -signal.SIGTERM:  # while it started; perhaps all processes got the signal
            await asyncio.sleep(SIGNAL_SECONDS)
        if self._stopping or (code == -signal.SIGTERM and self.page.state is State.DRAINING):
            return
        logger.error("worker %d %s", number, exit_reason(code))
        self._deaths.add()
        self._on_restart()
        if self._deaths.too_many:
            self._on_failure(
                f"{MAX_DEATHS} workers ended within {STEADY:g} s; the log lines above say how"
            )
            return
        await worker.released.wait()
        self.slots.free_unsubmitted(number)
        await asyncio.sleep(self._deaths.delay)
        if not self._stopping:
            await self._start_worker(number)

    async def _watch(self) -> None:
        """Show that the supervisor is alive, and kill processes that do not respond."""
        while True:
            self.page.beat()
            for worker in self.workers():
                if self.page.worker(worker.number).silence > WORKER_SILENCE:
                    logger.error(
                        "worker %d has not responded for %g s and is killed",
                        worker.number,
                        WORKER_SILENCE,
                    )
                    self.page.worker(worker.number).beat()
                    worker.kill()
            for engine in self.engines:
                if engine.running and self.page.engine(engine.number).silence > ENGINE_SILENCE:
                    logger.error(
                        "engine %d has not responded for %g s and is killed",
                        engine.number,
                        ENGINE_SILENCE,
                    )
                    self.page.engine(engine.number).beat()
                    engine.kill()
            await asyncio.sleep(HEARTBEAT)


async def end_all(children: Sequence[WorkerChild | EngineChild], seconds: float) -> None:
    """Wait for processes to end, and kill those that are left after some seconds."""
    ends = [asyncio.ensure_future(child.wait()) for child in children]
    if ends:
        await asyncio.wait(ends, timeout=seconds)
    for child in children:
        if child.running:
            logger.error("%s %d has not ended and is killed", child.role, child.number)
            child.kill()
    await asyncio.gather(*ends)
