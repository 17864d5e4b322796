"""The metrics of the whole service, in the supervisor."""

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from app.config.settings import Settings
from app.observability.metrics import Metrics
from app.observability.process_metrics import ProcessesCollector
from app.processes.children import WorkerChild
from app.processes.family import Family
from app.processes.messages import MalformedMessage
from app.processes.models import Models
from app.serving.classifier import ModelInfo
from app.serving.engines import Progress

COUNTING = 0.25  # seconds between two readings of the records of requests


class ServiceMetrics(Metrics):
    """Metrics of all processes, most of which are read from the memory that they share."""

    def __init__(self, settings: Settings, family: Family, models: Models) -> None:
        self._family, self._models, self._page = family, models, family.page
        super().__init__(
            lambda: [self._page.engine(engine.number) for engine in family.engines],
            ProcessesCollector(family.processes),
        )
        self.serving.watch(self, settings)
        self.watch_children()
        self.connections.open.set_function(
            lambda: sum(worker.connections for worker in self._page.each_worker())
        )

    @property
    def infos(self) -> Sequence[ModelInfo]:
        return self._models.current.infos if self._models.current else ()

    @property
    def progress(self) -> Progress:
        return self._page.progress(self._models.current.devices if self._models.current else ())

    @property
    def admitted(self) -> int:
        return self._family.slots.used

    @property
    def held_bytes(self) -> int:
        return sum(worker.held_bytes for worker in self._page.each_worker())

    @property
    def stuck_decoders(self) -> int:
        return sum(worker.stuck_decoders for worker in self._page.each_worker())

    def watch_children(self) -> None:
        """Show all workers and engines."""
        engines = [self._page.engine(engine.number) for engine in self._family.engines]
        self.workers.watch(
            self._page.each_worker(),
            [partial(getattr, engine, "queue_depth") for engine in engines],
        )

    def count(self, record: dict[str, Any]) -> None:
        """Count a request."""
        match record:
            case {"request": list(summary)}:
                self.requests.count(*summary)
            case {"refusal": [status, reason]}:
                self.requests.count_refusal(status, reason)
            case _:
                raise MalformedMessage("a record of an unknown kind")

    def count_records(self) -> None:
        """Count the requests that workers have finished since the last call."""
        for ring in self._family.records:
            for record in ring.take():
                try:
                    self.count(json.loads(record))
                except (MalformedMessage, TypeError, ValueError):
                    self.workers.dropped.inc()

    async def count_records_often(self) -> None:
        """Count requests before the memory for their records is full."""
        while True:
            self.count_records()
            await asyncio.sleep(COUNTING)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics, exact at this moment; see `Metrics.exposition`."""
        self.count_records()
        return await super().exposition(accept)

    async def answer(self, worker: WorkerChild, number: int, accept: str) -> None:
        """Answer a worker's question."""
        text, media_type = await self.exposition(accept)
        worker.send(text, answer=number, media_type=media_type)
