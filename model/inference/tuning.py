"""Which batch sizes are run: those that timing this model on this machine speaks for."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from model.backends.timing import AGREEMENT, Clock, Effort, steady_seconds

NEAR_BEST = 0.97
MOST_PASSES = 8  # of a small batch in a round
HOP_SECONDS = 3e-4  # what a batch costs its server beside the pass: from queue to thread and back
FALL = 1.5  # no cache is so small that twice the batch size divides throughput by more
EFFORT = Effort(rounds=4, seconds=0.2, limit=1.0)


def time_sizes(run: Callable[[int], float], sizes: Sequence[int], clock: Clock) -> dict[int, float]:
    """Seconds of a batch, by size in ascending order.

    A round runs small batches for as long as the largest, and begins with another size each time:
    a neighbour that is busy at regular intervals does not always meet the same one.

    Args:
        run: runs a batch of a size, and returns its seconds.
    """

    def measure(number: int) -> dict[int, float]:
        first = number % len(sizes)
        order = (*sizes[first:], *sizes[:first])
        return {size: mean_of(run, size, min(MOST_PASSES, sizes[-1] // size)) for size in order}

    found = steady_seconds(measure, EFFORT, plausible=plausible, clock=clock)
    return {size: found[size] for size in sizes}


def mean_of(run: Callable[[int], float], size: int, passes: int) -> float:
    return sum(run(size) for _ in range(passes)) / passes


def plausible(seconds: Mapping[int, float]) -> bool:
    """Whether the seconds of batches, by size, can be those of a machine that does nothing else.

    No batch takes longer than a larger one, and throughput falls little from one size to the next.
    """
    return all(
        seconds[small] <= AGREEMENT * seconds[large]
        and seconds[large] / large <= FALL * seconds[small] / small
        for small, large in pairwise(sorted(seconds))
    )


def throughput_by_size(timings: Sequence[Mapping[int, float]], sizes: Sequence[int]) -> list[float]:
    """Images a second by batch size, over streams that were timed side by side."""
    return [sum(size / (found[size] + HOP_SECONDS) for found in timings) for size in sizes]


def smallest_near_best(sizes: Sequence[int], rates: Sequence[float]) -> int:
    """The smallest size near the best throughput: a larger one only makes callers wait."""
    enough = NEAR_BEST * max(rates)
    return next(size for size, rate in zip(sizes, rates, strict=True) if rate >= enough)
