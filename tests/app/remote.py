"""The whole application on an engine behind slots and a channel, all in one process.

With ``XCIT_TEST_ENGINE=remote`` the tests of this folder run on it; see `use_remote_engines`.
"""

import asyncio
import mmap
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from app.http import service
from app.processes.channel import socket_pair
from app.processes.engine_link import EngineLink, SlotPermits
from app.processes.engine_server import EngineServer, ServedModel
from app.processes.memory import SharedMemory
from app.processes.remote_engine import RemoteEngines, RemoteModel
from app.processes.slots import SlotArea, Slots
from app.processes.status import PAGE_BYTES, StatusPage
from app.serving.classifier import Input
from app.serving.engine import Engine
from app.serving.engine_manager import EngineManager

SLOT_BYTES = 2**18  # pages that are not used take no memory


@dataclass(frozen=True)
class FakeSlotClassifier:
    """Reads the items of a `FakeClassifier` from slots."""

    classifier: Any

    def item(self, slot: memoryview, *, floats: bool) -> bytes:
        return read_item(slot)

    def explain_pixels(self, pixels: bytes, head: int | None) -> bytes:
        drawn: bytes = self.classifier.explain(pixels, head)
        return drawn


class FakePreparer:
    """Writes the items of a `FakeClassifier` into slots; the answer follows from the item."""

    def __init__(self, classifier: Any) -> None:
        self._classifier = classifier
        self.preprocess: Callable[[Input], Any] = classifier.preprocess
        self.figures: Callable[[Any, Any], Any] = classifier.figures
        self.prepare_explanation: Callable[[bytes], bytes] = classifier.prepare_explanation

    def write(self, item: bytes, slot: memoryview) -> bool:
        return write_item(item, slot)

    def read(self, slot: memoryview, top_k: int) -> Any:
        from .conftest import FakeClassification

        return FakeClassification(self._classifier.rows(read_item(slot), top_k))


def write_item(item: bytes, slot: memoryview) -> bool:
    """Write the size of an item and the item; returns that it is not made of floats.

    The end of an item that is larger than a slot has no influence on its answer, and is left out.
    """
    item = item[: len(slot) - 4]
    slot[:4] = len(item).to_bytes(4, "little")
    slot[4 : 4 + len(item)] = item
    return False


def read_item(slot: memoryview) -> bytes:
    size = int.from_bytes(slot[:4], "little")
    return bytes(slot[4 : 4 + size])


class RemoteManager(EngineManager):
    """An `EngineManager` whose requests reach the engine through slots and a channel."""

    latest: "RemoteManager"
    tracing: Any = None

    def __init__(self, settings: Any, lifecycle: Any, load: Any, **callbacks: Any) -> None:
        super().__init__(settings, lifecycle, load, **callbacks)
        count = settings.max_queue_size
        memory = SharedMemory.create(PAGE_BYTES + Slots.size(count))
        self.page = StatusPage(memory)
        slots = Slots(memory, PAGE_BYTES, count)
        self._area = SlotArea(memoryview(mmap.mmap(-1, count * SLOT_BYTES)), 0, SLOT_BYTES)
        self.permits = SlotPermits(slots, 0)
        self._server = EngineServer(0, slots, self.page.engine(0), lambda worker: None)
        self._link = EngineLink(0, self.permits, lambda reason: None)
        self._remote = RemoteEngines(
            lifecycle, self.page, slots, [self._link], on_unused=self._retire, reload=self._refuse
        )
        self._generation = 0
        self._loaded: dict[int, Engine] = {}
        RemoteManager.latest = self
        self._server.spans = self._remote.spans = RemoteManager.tracing

    def _refuse(self) -> None:
        raise AssertionError("the manager itself reloads")

    async def start(self) -> None:
        await self._remote.start()
        ours, theirs = socket_pair()
        try:
            await self._server.add_worker(0, ours)
            await self._link.open(theirs)
        except asyncio.CancelledError:  # the service ends at once
            theirs.close()
            raise
        await super().start()

    async def close(self) -> None:
        await super().close()
        await self._remote.close()
        self._server.close()
        await asyncio.sleep(0.001)  # for the transports to close

    def _use(self, engine: Engine) -> None:
        self._generation += 1
        generation, classifier = self._generation, engine.classifier
        self._loaded[generation] = engine
        served = ServedModel(engine, FakeSlotClassifier(classifier), self._area)
        self._server.models[generation] = served
        model = RemoteModel(
            generation, engine.info, [engine.info.device], FakePreparer(classifier), self._area
        )
        self._remote.add(model)
        self.page.model = generation
        super()._use(engine)

    def _retire(self, generation: int) -> None:
        self._server.models.pop(generation, None)

    @property
    def open(self) -> Any:
        _ = super().open  # raises if requests are refused
        return RemoteFacade(self._remote.current, self._loaded[self._generation])


class RemoteFacade:
    """A remote engine for requests, and the engine itself for the manager."""

    def __init__(self, remote: Any, engine: Engine) -> None:
        self._remote = remote
        self._engine = engine
        self.classifier = remote.classifier
        self.run = remote.run
        self.retire = engine.retire

    @property
    def info(self) -> Any:
        return self._engine.info

    def in_use(self) -> Any:
        stack = ExitStack()
        stack.enter_context(self._engine.in_use())
        stack.enter_context(self._remote.in_use())
        return stack


def use_remote_engines() -> None:
    """Build services on remote engines from now on."""
    replaced: Any = service
    open_tracing = replaced.open_tracing

    def remember() -> Any:
        RemoteManager.tracing = open_tracing()
        return RemoteManager.tracing

    replaced.open_tracing = remember
    replaced.EngineManager = RemoteManager
    replaced.CountedPermits = lambda total: RemoteManager.latest.permits
