"""State, keys, limits and metrics that a worker shares with the other processes."""

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.http.api_keys import ApiKeys
from app.observability.record import RequestRecord
from app.processes.records import RecordRing
from app.processes.status import StatusPage
from app.serving.errors import ServiceError
from app.serving.held_bytes import HeldBytes
from app.serving.lifecycle import Lifecycle, State


class SharedLifecycle(Lifecycle):
    """The state of the service, as the status page shows it.

    Args:
        on_failure: called with the reason when this worker alone has failed.
    """

    def __init__(self, page: StatusPage, on_failure: Callable[[str], None]) -> None:
        self._page = page
        self._on_failure = on_failure
        self.failure: str | None = None

    @property
    def state(self) -> State:  # type: ignore[override]
        return self._page.state

    @property
    def alive(self) -> bool:
        """Whether the service works: its supervisor and its engines, too."""
        return self.state is not State.FAILED and self._page.alive

    @property
    def ready(self) -> bool:
        return self.state is State.READY and self._page.alive

    @property
    def serving(self) -> bool:
        return self.state is State.READY or (
            self.state is State.DRAINING and not self._page.refusing
        )

    def listen(self, listener: Callable[[State], None]) -> None:
        """Nothing: the supervisor reports changes of the state."""

    def fail(self, reason: str) -> None:
        self._on_failure(reason)


class SharedHeldBytes(HeldBytes):
    """The bytes of request bodies in all workers.

    A worker adds its bytes before it looks at the total, so the limit holds although workers do not
    wait for each other.
    """

    def __init__(self, maximum: int, page: StatusPage, worker: int) -> None:
        super().__init__(maximum)
        self._status = page.worker(worker)
        self._page = page

    @property
    def total(self) -> int:
        return sum(worker.held_bytes for worker in self._page.each_worker())

    def add(self, size: int) -> None:
        super().add(size)
        self._status.held_bytes = self._own


class SharedKeys(ApiKeys):
    """API keys that the supervisor reads; which of them are valid changes with the model.

    Args:
        page: names the model that serves.
        names: by hash, by generation of the model.
    """

    def __init__(self, page: StatusPage, names: Mapping[int, Mapping[bytes, str]]) -> None:
        self._page = page
        self._by_model = names
        self._path = Path()

    @property
    def _names(self) -> Mapping[bytes, str]:  # type: ignore[override]
        return self._by_model.get(self._page.model, {})

    def read_again(self) -> Callable[[], None]:
        """Nothing: the supervisor reads the keys during a reload."""
        return lambda: None


class RemoteMetrics:
    """Metrics that the supervisor keeps.

    Args:
        records: takes the records of requests.
        send: sends a JSON object to the supervisor; also a record that does not fit.
        ask: sends one and returns the answer and the bytes behind it.
    """

    def __init__(
        self,
        records: RecordRing,
        send: Callable[[dict[str, Any]], None],
        ask: Callable[[dict[str, Any]], Any],
    ) -> None:
        self._records = records
        self._send = send
        self._ask = ask
        self.requests = self
        self.reload_failed = self

    def set(self, value: float) -> None:
        """Nothing: the supervisor knows whether a reload failed."""

    def observe(self, record: RequestRecord) -> None:
        """Report a finished request."""
        self._put({"request": record.summary()})

    def observe_refusal(self, error: ServiceError) -> None:
        """Report a request that the application has not seen."""
        self._put({"refusal": [error.status, error.reason()]})

    def _put(self, record: dict[str, Any]) -> None:
        if not self._records.put(json.dumps(record).encode()):
            self._send(record)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics of the whole service."""
        content, text = await self._ask({"metrics": accept})
        return text, str(content["media_type"])


class Questions:
    """Questions to the supervisor that wait for their answers.

    Args:
        send: sends a JSON object to the supervisor.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Any] = {}

    async def ask(self, content: dict[str, Any]) -> Any:
        """The answer to a question: its content and the bytes behind it."""
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._send({**content, "question": number})
        try:
            return await future
        finally:
            del self._waiting[number]

    def answer(self, number: int, content: dict[str, Any], data: bytes) -> None:
        """Pass on an answer of the supervisor."""
        future = self._waiting.get(number)
        if future and not future.done():
            future.set_result((content, data))
