"""Which failed requests are retried, and after which pause."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from xcit_client.errors import ClientError, InvalidOption, Unreachable

_TRY_LATER = {429, 502, 503}


@dataclass(frozen=True, slots=True)
class Retries:
    """How long and how often requests are retried; see `may_succeed_later`.

    Attributes:
        seconds: time from the first attempt; no attempt starts later. 0 disables retries.
        first_pause: seconds before the first retry. Pauses double, and half of each is random. The
            service's ``Retry-After`` is added.
        longest_pause: maximum seconds between attempts, without ``Retry-After``.
    """

    seconds: float = 30.0
    first_pause: float = 0.1
    longest_pause: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise InvalidOption(
                    f"{field.name} is {getattr(self, field.name)}; expected 0 or more"
                )


RETRIES = Retries()
NO_RETRIES = Retries(seconds=0.0)


class Attempts:
    """The attempts of one request; the first starts now."""

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
        self._started = clock()
        self._pause = retries.first_pause

    def pause_after(self, error: ClientError) -> float:
        """Seconds to wait before the next attempt; raises ``error`` after the last one."""
        longest = min(self._pause, self._retries.longest_pause)
        self._pause = 2 * longest
        pause = self._draw(longest / 2, longest) + (error.retry_after or 0.0)
        too_late = self._clock() - self._started + pause >= self._retries.seconds
        if too_late or not may_succeed_later(error):
            raise error
        return pause


def may_succeed_later(error: ClientError) -> bool:
    """Whether the service was unreachable or temporarily unavailable."""
    return isinstance(error, Unreachable) or error.status in _TRY_LATER
