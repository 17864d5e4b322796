"""An engine process: loads models and answers the images that workers put into slots."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from app.config.settings import Settings, SettingsError
from app.observability.logs import set_up_logs
from app.observability.optional_tracing import open_tracing
from app.processes.channel import Channel
from app.processes.child import Child, Load, settings_from_json
from app.processes.engine_server import EngineServer, ServedModel
from app.processes.messages import Json, Message
from app.processes.slots import SlotArea
from app.processes.status import HEARTBEAT
from app.serving.engine import Engine, load_and_warm_up
from app.serving.engines import Job
from app.serving.errors import StartupError
from app.serving.heap import keep_heap
from app.serving.timings import Batch

DESCRIPTOR_BYTES = 4  # of a worker's number, with its end of a channel

logger = logging.getLogger(__name__)


class EngineProcess:
    """Follows the messages of the supervisor.

    Args:
        load: see `app.loading.load_for_engine`.
    """

    def __init__(self, child: Child, load: Load) -> None:
        self._child = child
        self._cores = child.inherited.cores
        self._number = child.inherited.number
        self._status = child.page.engine(self._number)
        self._load = load
        self._settings: Settings | None = None
        self._tracing: Any = None
        self._server = EngineServer(self._number, child.slots, self._status, self._on_gone)
        self._loaded: dict[int, tuple[Engine, Any]] = {}
        self._batch_sizes: dict[int, int] = {}  # maximum ones, as reported
        self._ended = asyncio.Event()
        self._control: Channel | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the supervisor says stop, or ends."""
        self._control = await Channel.open(
            self._child.control, self._on_message, lambda reason: self._ended.set()
        )
        descriptors = socket.socket(fileno=self._child.inherited.descriptors)
        descriptors.setblocking(False)  # noqa: FBT003
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptors, self._receive_workers, descriptors)
        beating = asyncio.create_task(self._beat())
        await self._ended.wait()
        beating.cancel()
        for engine, _ in self._loaded.values():
            await engine.close()
        self._server.close()
        if self._tracing:
            await self._tracing.close()

    async def _beat(self) -> None:
        reported = 0
        while True:
            self._status.beat()
            self._report_batch_sizes()
            if self._server.dropped > reported:
                self._send(dropped=self._server.dropped - reported)
                reported = self._server.dropped
            await asyncio.sleep(HEARTBEAT / 2)

    def _report_batch_sizes(self) -> None:
        """Report models whose batches are smaller since the device ran out of memory."""
        for generation, (engine, _) in self._loaded.items():
            size = engine.info.max_batch_size
            if size != self._batch_sizes[generation]:
                self._batch_sizes[generation] = size
                self._send(of=generation, max_batch_size=size)

    def _send(self, **content: Any) -> None:
        if self._control:
            self._control.send(Json(content))

    def _on_message(self, message: Message) -> None:
        match message:
            case Json(content={"settings": dict(values)}):
                self._configure(settings_from_json(values))
            case Json(content={"load": int(generation)}):
                self._start(self._load_model(generation))
            case Json(content={"serve": int(generation), "begin": begin, "slot_bytes": size}):
                self._serve(generation, begin, size)
            case Json(content={"retire": int(generation)}):
                self._start(self._retire(generation))
            case Json(content={"stop": _}):
                self._ended.set()

    def _configure(self, settings: Settings) -> None:
        self._settings = settings
        set_up_logs(settings.log_level, settings.log_format, f"engine-{self._number}")
        if settings.tracing:
            try:
                self._tracing = self._server.spans = open_tracing()
            except SettingsError as error:
                self._send(unusable=str(error))

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load_model(self, generation: int) -> None:
        """Load another model, and report the size of its slots."""
        settings = self._settings
        assert settings is not None
        limit = None if generation == 1 else settings.reload_timeout_s
        try:
            async with asyncio.timeout(limit):
                loaded, threads = await load_and_warm_up(partial(self._load, settings, self._cores))
            classifier: Any = loaded  # an `app.loading.SlotClassifier`
        except TimeoutError:
            self._send(load_failed=generation, reason=f"the model was not ready within {limit:g} s")
            return
        except Exception as error:
            if not isinstance(error, StartupError):
                logger.exception("unexpected error while loading")
                error = StartupError(f"loading failed: {error!r}")
            self._send(load_failed=generation, reason=str(error))
            return
        engine = Engine(
            classifier,
            threads,
            settings,
            on_batch=self._observe_batch,
            on_take=self._server.show_queue,
            on_failure=lambda error: self._send(failed=f"inference failed: {error}"),
        )
        self._loaded[generation] = (engine, classifier)
        self._batch_sizes[generation] = engine.info.max_batch_size
        self._send(
            loaded=generation,
            info=asdict(engine.info),
            spec=classifier.spec,
            profile=classifier.profile,
            slot_bytes=classifier.slot_bytes,
            weight_bytes=classifier.weight_bytes,
            busy_workers=classifier.busy_workers,
        )

    def _serve(self, generation: int, begin: int, slot_bytes: int) -> None:
        """Answer images of a model from now on; its slots are in the shared memory."""
        self._child.data.map()
        engine, classifier = self._loaded[generation]
        area = SlotArea(self._child.data.view, begin, slot_bytes)
        self._server.models[generation] = ServedModel(engine, classifier, area)
        self._send(serving=generation)
        keep_heap()

    async def _retire(self, generation: int) -> None:
        """Close the engine of a model that no worker uses any more."""
        self._server.models.pop(generation, None)
        found = self._loaded.pop(generation, None)
        self._batch_sizes.pop(generation, None)
        if found:
            await found[0].close()
        del found
        keep_heap()
        self._send(retired=generation)

    def _receive_workers(self, descriptors: socket.socket) -> None:
        """Take the ends of channels to workers."""
        with suppress(BlockingIOError):
            data, files, _, _ = socket.recv_fds(descriptors, DESCRIPTOR_BYTES, 1)
            if not files:  # the supervisor has ended
                asyncio.get_running_loop().remove_reader(descriptors)
                return
            number = int.from_bytes(data, "little")
            self._start(self._server.add_worker(number, socket.socket(fileno=files[0])))

    def _on_gone(self, worker: int) -> None:
        self._send(gone=worker)

    def _observe_batch(self, batch: Batch, padding: int, jobs: Sequence[Job]) -> None:
        if self._tracing:
            self._tracing.observe_batch(batch, padding, jobs)
        if batch.error is None:
            self._status.add(batch.size, padding, batch.seconds)
