"""The states of the process, their legal moves, and what each promises.

LOADING ──> READY ──> DRAINING
   │  └───────┼───────────^ │
   └──> FAILED <────────────┘

LOADING   alive, not to be routed to; requests are refused
READY     requests are served
DRAINING  not to be routed to; served until `refuse` is called, then refused; admitted ones end
FAILED    neither alive nor ready; the process is about to end with a non-zero exit code
"""

from collections.abc import Callable
from enum import StrEnum


class State(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


_MOVES = {
    State.LOADING: {State.READY, State.DRAINING, State.FAILED},
    State.READY: {State.DRAINING, State.FAILED},
    State.DRAINING: {State.FAILED},
    State.FAILED: set[State](),
}


class Lifecycle:
    """The current state. Listeners hear each move, in the thread that made it: the event loop."""

    def __init__(self) -> None:
        self.state = State.LOADING
        self.failure: str | None = None
        self._refusing = False
        self._listeners: list[Callable[[State], None]] = []

    @property
    def alive(self) -> bool:
        return self.state is not State.FAILED

    @property
    def ready(self) -> bool:
        return self.state is State.READY

    @property
    def serving(self) -> bool:
        """Whether a new request is admitted."""
        return self.ready or (self.state is State.DRAINING and not self._refusing)

    def listen(self, listener: Callable[[State], None]) -> None:
        self._listeners.append(listener)
        listener(self.state)

    def become_ready(self) -> None:
        self._move(State.READY)

    def drain(self) -> None:
        """Ask not to be routed to. What is still routed here is served, until `refuse`."""
        self._refusing = self.state is State.LOADING  # nothing can be served yet
        self._move(State.DRAINING)

    def refuse(self) -> None:
        """Refuse new requests from here on."""
        self._refusing = True

    def fail(self, reason: str) -> None:
        """The first failure is the one that is told."""
        if self.state is not State.FAILED:
            self.failure = reason
            self._move(State.FAILED)

    def _move(self, state: State) -> None:
        assert state in _MOVES[self.state], f"{self.state} cannot become {state}"
        self.state = state
        for listener in self._listeners:
            listener(state)
