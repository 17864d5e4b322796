"""Timings that a busy moment of the machine does not change.

Quantities are timed in rounds, each of them once a round. What a round measured counts when most
rounds agree with it: a neighbour that is busy for a moment spoils a few rounds, which are left out.
While most do not agree, more rounds follow, for a bounded time; after it the fastest one counts.
"""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
Clock = Callable[[], float]

AGREEMENT = 1.25  # rounds agree when the slowest takes at most this many times the fastest


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds, seconds: both at least; enough where the machine is quiet.
        limit: seconds at most while rounds disagree, or twice what the least took, if that is more.
    """

    rounds: int
    seconds: float = 0.0
    limit: float


def steady_seconds(
    measure: Callable[[int], Mapping[K, float]],
    effort: Effort,
    *,
    plausible: Callable[[Mapping[K, float]], bool] = lambda _: True,
    clock: Clock = time.perf_counter,
) -> dict[K, float]:
    """Seconds of each quantity: the mean of the faster majority of its rounds, if they agree.

    Args:
        measure: one round, by its number from 0: the seconds of each quantity.
        plausible: whether the means can be true; as long as they cannot, more rounds follow.
    """
    begun, rounds, limit = clock(), list[Mapping[K, float]](), None
    while True:
        rounds.append(measure(len(rounds)))
        elapsed = clock() - begun
        if len(rounds) < effort.rounds or elapsed < effort.seconds:
            continue
        limit = limit or max(effort.limit, 2 * elapsed)
        majorities = {key: _faster_majority([each[key] for each in rounds]) for key in rounds[0]}
        means = {key: sum(found) / len(found) for key, found in majorities.items()}
        agreed = all(found[-1] <= AGREEMENT * found[0] for found in majorities.values())
        if agreed and (elapsed >= limit or plausible(means)):
            return means
        if elapsed >= limit:
            return {key: found[0] for key, found in majorities.items()}


def _faster_majority(seconds: Sequence[float]) -> list[float]:
    """The fastest half of the values and one more, in ascending order."""
    return sorted(seconds)[: len(seconds) // 2 + 1]
