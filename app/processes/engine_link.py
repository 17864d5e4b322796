"""The channel from a worker to an engine, and the images that the engine has."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.processes.channel import Channel
from app.processes.messages import Cancel, Done, Json, Message, Submit
from app.processes.slots import Claim, Slots
from app.serving.engines import RETRY_ELSEWHERE
from app.serving.errors import DeviceFailure, NotReady


@dataclass(slots=True, eq=False)
class Pending:
    """A submitted image that the engine has not answered.

    Attributes:
        released: whether the request has ended, so that the slot is released with the answer.
    """

    claim: Claim
    engine: int
    future: "asyncio.Future[Done]"
    released: bool = False


class SlotPermits:
    """Permits that are slots, shared by all workers.

    A slot whose image is still with an engine is released when the engine has answered.
    """

    def __init__(self, slots: Slots, worker: int) -> None:
        self._slots = slots
        self._worker = worker
        self.total = slots.count
        self.pending: dict[int, Pending] = {}

    @property
    def used(self) -> int:
        return self._slots.used

    def take(self, count: int) -> Sequence[Claim] | None:
        claims: list[Claim] = []
        while len(claims) < count:
            claim = self._slots.claim(self._worker)
            if claim is None:
                self.give_back(claims)
                return None
            claims.append(claim)
        return claims

    def give_back(self, permits: Sequence[Claim]) -> None:
        for claim in permits:
            if pending := self.pending.get(claim.slot):
                pending.released = True
            else:
                self._slots.release(claim)

    def answered(self, pending: Pending) -> None:
        """Note that an engine has answered for a slot."""
        del self.pending[pending.claim.slot]
        if pending.released:
            self._slots.release(pending.claim)


class EngineLink:
    """The channel to one engine, and the images that it has."""

    def __init__(self, number: int, permits: SlotPermits, on_end: Callable[[str], None]) -> None:
        self.number = number
        self._permits = permits
        self._on_end = on_end
        self.channel: Channel | None = None
        self._explanations: dict[int, asyncio.Future[Json]] = {}
        self._asked = 0

    async def open(self, end: Any) -> None:
        """Connect by one end of a socket pair."""
        self.channel = await Channel.open(end, self._on_message, self._ended)

    async def submit(self, submit: Submit, claim: Claim) -> Done:
        """The engine's answer to an image.

        Cancelled, it takes the image out of the engine's queue; the slot is in use until the
        engine has answered all the same.
        """
        if self.channel is None:
            raise DeviceFailure("the engine has ended")
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._permits.pending[claim.slot] = Pending(claim, self.number, future)
        self.channel.send(submit)
        try:
            return await future
        except asyncio.CancelledError:
            if self.channel:
                self.channel.send(Cancel(claim.slot, claim.generation))
            raise

    async def explain(self, model: int, pixels: bytes, head: int | None) -> bytes:
        """A picture of where a model looks; raises `NotReady` without an answer."""
        if self.channel is None:
            raise DeviceFailure("the engine has ended")
        self._asked += 1
        number = self._asked
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._explanations[number] = future
        self.channel.send(Json({"explain": number, "model": model, "head": head}, pixels))
        try:
            answer = await future
        finally:
            del self._explanations[number]
        if error := answer.content.get("error"):
            raise NotReady(str(error), retry_after=RETRY_ELSEWHERE)
        return answer.data

    def _on_message(self, message: Message) -> None:
        match message:
            case Done(slot=slot):
                pending = self._permits.pending.get(slot)
                if pending and pending.claim.generation == message.generation:
                    self._permits.answered(pending)
                    if not pending.future.done():
                        pending.future.set_result(message)
            case Json(content={"explain": int(number)}):
                future = self._explanations.get(number)
                if future and not future.done():
                    future.set_result(message)

    def _ended(self, reason: str) -> None:
        """Fail all that the engine has not answered."""
        self.channel = None
        for pending in [*self._permits.pending.values()]:
            if pending.engine == self.number and not pending.future.done():
                pending.future.set_exception(DeviceFailure("the engine has ended"))
        for future in self._explanations.values():
            if not future.done():
                future.set_exception(DeviceFailure("the engine has ended"))
        self._on_end(reason)
