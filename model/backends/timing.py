"""Timing that is robust against short disturbances of the machine.

Quantities are timed in rounds, each once per round. Rounds count if most of them agree, so that
those that another process disturbed are left out. As long as they disagree, more rounds follow, for
a bounded time; then the fastest round counts.
"""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
Clock = Callable[[], float]

AGREEMENT = 1.25  # rounds agree if the slowest takes at most this many times the fastest


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds, seconds: minimum of both; enough on an idle machine.
        limit: maximum seconds while rounds disagree, or twice the minimum if that took longer.
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
        measure: runs one round, given its number from 0, and returns the seconds of each quantity.
        plausible: whether the means can be right; while they cannot, more rounds follow.
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
    """The fastest half of the values plus one, in ascending order."""
    return sorted(seconds)[: len(seconds) // 2 + 1]
