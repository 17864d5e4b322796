"""Loading a model on all engines, and the switch of all workers to it at one moment."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from app.processes.children import EngineChild, WorkerChild
from app.processes.memory import SharedMemory
from app.processes.slots import round_up
from app.processes.status import StatusPage
from app.serving.classifier import ModelInfo
from app.serving.errors import StartupError


@dataclass(frozen=True, slots=True)
class SharedModel:
    """A model that all engines have loaded.

    Attributes:
        spec: its description for workers, as JSON.
        profile: classes and buckets of the metrics of predictions; see `model.drift.profile`.
        begin, slot_bytes: where the slots are in the shared memory.
        keys: names of API keys by hash, valid while the model serves.
        weight_bytes: of its weights.
        busy_workers: CPU cores that decoding and HTTP take while all engines are busy.
    """

    generation: int
    infos: Sequence[ModelInfo]
    spec: Mapping[str, Any]
    profile: Mapping[str, Any]
    begin: int
    slot_bytes: int
    keys: Mapping[bytes, str]
    weight_bytes: int
    busy_workers: float

    @property
    def info(self) -> ModelInfo:
        """The model on the first engine."""
        return self.infos[0]

    @property
    def devices(self) -> list[str]:
        """The device of each engine."""
        return [info.device for info in self.infos]


class Models:
    """The model that serves, and its replacement.

    Args:
        data: the shared memory of the slots' bytes.
        slots: how many there are.
        workers: those that have started and run now.
    """

    def __init__(
        self,
        page: StatusPage,
        data: SharedMemory,
        slots: int,
        engines: Sequence[EngineChild],
        workers: Callable[[], Sequence[WorkerChild]],
    ) -> None:
        self._page = page
        self._data = data
        self._slots = slots
        self._engines = engines
        self._workers = workers
        self._generation = 0
        self._area: tuple[int, int] = (0, 0)  # begin and bytes of slots
        self.current: SharedModel | None = None
        self.next: SharedModel | None = None  # that workers get to know

    async def load(self, keys: Mapping[bytes, str]) -> SharedModel:
        """Load the model on all engines, and make room for its slots.

        Raises:
            StartupError: an engine cannot serve it, or there is not enough memory.
        """
        self._generation += 1
        generation = self._generation
        loading = [asyncio.create_task(self._load_on(each, generation)) for each in self._engines]
        await asyncio.wait(loading)
        try:
            found = [task.result() for task in loading]
            infos = [ModelInfo(**each["info"]) for each in found]
            check_fingerprints(infos)
        except StartupError:
            for engine in self._engines:  # some may have loaded it
                engine.send(retire=generation)
            raise
        size = max(each["slot_bytes"] for each in found)
        begin, slot_bytes = self._make_room(round_up(size, 64))
        return SharedModel(
            generation,
            infos=infos,
            spec=found[0]["spec"],
            profile=found[0]["profile"],
            begin=begin,
            slot_bytes=slot_bytes,
            keys=keys,
            weight_bytes=found[0]["weight_bytes"],
            busy_workers=sum(each["busy_workers"] for each in found),
        )

    async def switch(self, model: SharedModel) -> None:
        """Let a loaded model serve: from one moment on, in all workers."""
        await asyncio.gather(*(self._serve_on(engine, model) for engine in self._engines))
        self.next = model
        await asyncio.gather(*(tell(worker, model) for worker in self._workers()))
        self._page.model = model.generation
        self.current, self.next = model, None

    async def retire(self, model: SharedModel) -> None:
        """Close a replaced model once no request uses it."""
        workers = self._workers()
        unused = [worker.expect("unused", model.generation) for worker in workers]
        for worker in workers:
            worker.send(replaced=model.generation)
        await asyncio.gather(*unused, return_exceptions=True)  # one that has died uses none
        closed = [engine.expect("retired", model.generation) for engine in self._engines]
        for engine in self._engines:
            engine.send(retire=model.generation)
        await asyncio.gather(*closed, return_exceptions=True)

    def limit_batches(self, engine: EngineChild, generation: int, size: int) -> None:
        """Note that an engine runs smaller batches from now on."""
        if self.current and self.current.generation == generation:
            infos = [*self.current.infos]
            infos[engine.number] = replace(infos[engine.number], max_batch_size=size)
            self.current = replace(self.current, infos=infos)
            for worker in self._workers():
                worker.send(of=generation, max_batch_size=self.current.info.max_batch_size)

    async def introduce(self, worker: WorkerChild) -> None:
        """Tell a worker that has just started which models there are."""
        for model in (self.current, self.next):
            if model:
                await tell(worker, model)

    async def _load_on(self, engine: EngineChild, generation: int) -> dict[str, Any]:
        loaded = engine.expect("loaded", generation)
        failed = engine.expect("load_failed", generation)
        engine.send(load=generation)
        try:
            await asyncio.wait((loaded, failed), return_when=asyncio.FIRST_COMPLETED)
            if loaded.done() and not loaded.exception():
                return loaded.result()
            if failed.done() and not failed.exception():
                raise StartupError(str(failed.result()["reason"]))
            raise StartupError(f"engine {engine.number} has ended")
        finally:
            loaded.cancel()
            failed.cancel()

    async def _serve_on(self, engine: EngineChild, model: SharedModel) -> None:
        serving = engine.expect("serving", model.generation)
        engine.send(serve=model.generation, begin=model.begin, slot_bytes=model.slot_bytes)
        try:
            await serving
        except ConnectionError as error:
            raise StartupError(f"engine {engine.number} has ended") from error

    def _make_room(self, slot_bytes: int) -> tuple[int, int]:
        """Where slots of this size are: in the memory that there is, or in new memory."""
        begin, existing = self._area
        if slot_bytes > existing:
            begin = self._data.grow(slot_bytes * self._slots)
            self._area = (begin, slot_bytes)
        return self._area


async def tell(worker: WorkerChild, model: SharedModel) -> None:
    """Have a worker know a model; without effect if the worker ends meanwhile."""
    known = worker.expect("known", model.generation)
    worker.send(
        model=model.generation,
        info=asdict(model.info),
        devices=model.devices,
        spec=model.spec,
        begin=model.begin,
        slot_bytes=model.slot_bytes,
        keys={digest.hex(): name for digest, name in model.keys.items()},
    )
    await asyncio.gather(known, return_exceptions=True)


def check_fingerprints(infos: Sequence[ModelInfo]) -> None:
    """Raise `StartupError` if engines in deterministic mode compute different logits."""
    first, *others = infos
    for number, other in enumerate(others, 1):
        if other.fingerprint != first.fingerprint:
            raise StartupError(
                f"not deterministic: engine {number} ({other.backend} on {other.device}) computes "
                f"other logits than engine 0 ({first.backend} on {first.device}); set XCIT_ENGINES "
                "to 1 or use equal devices"
            )
