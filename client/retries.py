"""When a request that failed is sent again, and after how long."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from client.errors import ClientError, InvalidOption, Unreachable

_NOT_NOW = {429, 503}


@dataclass(frozen=True, slots=True)
class Retries:
    """How much is tried again, of what may go well the next time: see `may_pass`.

    Attributes:
        tries: with the first one.
        seconds: from the first try; none begins later.
        first_pause, longest_pause: seconds. Pauses double from the one to the other; half of each
            is left to chance. What the service tells in ``Retry-After`` comes on top.
    """

    tries: int = 5
    seconds: float = 30.0
    first_pause: float = 0.1
    longest_pause: float = 5.0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise InvalidOption(f"tries is {self.tries}; it must be 1 or more")
        for name in ("seconds", "first_pause", "longest_pause"):
            if not getattr(self, name) >= 0:
                raise InvalidOption(f"{name} is {getattr(self, name)}; it must be 0 or more")


RETRIES = Retries()
NO_RETRIES = Retries(tries=1)


class Attempts:
    """The tries of one request, beginning now."""

    def __init__(
        self,
        retries: Retries,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._retries = retries
        self._clock = clock
        self._draw = draw
        self._begun = clock()
        self._made = 0

    def pause_after(self, error: ClientError) -> float:
        """Seconds to wait before the next try; raises ``error`` if there is to be none."""
        self._made += 1
        pause = self._next_pause() + (error.retry_after or 0.0)
        in_time = self._clock() - self._begun + pause <= self._retries.seconds
        if self._made < self._retries.tries and in_time and may_pass(error):
            return pause
        raise error

    def _next_pause(self) -> float:
        longest = self._retries.first_pause * 2 ** (self._made - 1)
        longest = min(longest, self._retries.longest_pause)
        return self._draw(longest / 2, longest)


def may_pass(error: ClientError) -> bool:
    """Whether the same request may go well later: nobody was there, or it was told to wait."""
    return isinstance(error, Unreachable) or error.status in _NOT_NOW
