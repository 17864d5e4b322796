"""Choosing batch sizes, and the passes for each, by timing the model on this machine."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from model.backends.timing import AGREEMENT, Clock, Effort, steady_seconds

Passes = tuple[int, ...]  # sizes of the passes in which a batch is computed

NEAR_BEST = 0.97
MOST_PASSES = 8  # of a small batch per round
HOP_SECONDS = 3e-4  # overhead per batch: from the queue to the thread and back
FALL = 1.5  # the largest plausible drop in throughput when the batch size doubles (cache effects)
EFFORT = Effort(rounds=4, seconds=0.2, limit=1.0)


def time_sizes(run: Callable[[int], float], sizes: Sequence[int], clock: Clock) -> dict[int, float]:
    """Seconds per batch, by size in ascending order.

    A round runs small batches several times, to take as long as the largest, and starts with
    another size each time, so that a periodic load on the machine does not always hit the same
    size.

    Args:
        run: runs a batch of a given size and returns its duration in seconds.
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
    """Whether these durations, by batch size, could come from an otherwise idle machine.

    No batch takes longer than a larger one, and throughput falls little from one size to the next.
    """
    return all(
        seconds[small] <= AGREEMENT * seconds[large]
        and seconds[large] / large <= FALL * seconds[small] / small
        for small, large in pairwise(sorted(seconds))
    )


def throughput_by_size(timings: Sequence[Mapping[int, float]], sizes: Sequence[int]) -> list[float]:
    """Images per second by batch size, summed over inference threads timed side by side."""
    return [sum(size / (found[size] + HOP_SECONDS) for found in timings) for size in sizes]


def smallest_near_best(sizes: Sequence[int], rates: Sequence[float]) -> int:
    """The smallest size near the best throughput: a larger one only adds latency."""
    enough = NEAR_BEST * max(rates)
    return next(size for size, rate in zip(sizes, rates, strict=True) if rate >= enough)


def cheapest_passes(seconds: Mapping[int, float]) -> list[Passes]:
    """The cheapest passes for a batch, indexed by its number of images, up to the largest size.

    A batch of a known size takes one pass. Any other batch is padded, divided, or both, whichever
    takes the least time.

    Args:
        seconds: duration of a pass, by its size.
    """
    least, found = [0.0], [Passes()]
    for count in range(1, max(seconds) + 1):
        ways = {count} if count in seconds else seconds
        time, first = min((seconds[size] + least[max(0, count - size)], size) for size in ways)
        least.append(time)
        found.append((first, *found[max(0, count - first)]))
    return found
