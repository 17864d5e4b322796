"""The states of the process and the transitions between them.

LOADING ──> READY ──> DRAINING
   │  └───────┼───────────^ │
   └──> FAILED <────────────┘

LOADING   alive, not ready; requests are refused
READY     requests are served
DRAINING  not ready; requests are served until `refuse` is called, then only admitted ones
FAILED    neither alive nor ready; the process is about to end with a non-zero exit code
"""

from collections.abc import Callable
from enum import StrEnum


class State(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


_TRANSITIONS = {
    State.LOADING: {State.READY, State.DRAINING, State.FAILED},
    State.READY: {State.DRAINING, State.FAILED},
    State.DRAINING: {State.FAILED},
    State.FAILED: set[State](),
}


class Lifecycle:
    """The current state. Listeners are called with each new state, on the event loop."""

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
        """Stop being ready, so that no more traffic is routed here; serve until `refuse`."""
        self._refusing = self.state is State.LOADING  # without a model, nothing can be served
        self._move(State.DRAINING)

    def refuse(self) -> None:
        """Refuse new requests from now on."""
        self._refusing = True

    def fail(self, reason: str) -> None:
        """Fail for ``reason``; only the first failure counts."""
        if self.state is not State.FAILED:
            self.failure = reason
            self._move(State.FAILED)

    def _move(self, state: State) -> None:
        assert state in _TRANSITIONS[self.state], f"{self.state} cannot become {state}"
        self.state = state
        for listener in self._listeners:
            listener(state)
