"""How a batch of any size is computed by passes of a few sizes."""

from collections.abc import Mapping

Passes = tuple[int, ...]


def cheapest_passes(seconds: Mapping[int, float]) -> list[Passes]:
    """The sizes of the passes that compute a batch, by its number of images, up to the largest.

    One that is a size itself is one pass. Any other is filled up to a size, or divided, or both,
    whatever takes least time.

    Args:
        seconds: that a pass takes, by its size.
    """
    least, found = [0.0], [Passes()]
    for count in range(1, max(seconds) + 1):
        ways = {count} if count in seconds else seconds
        time, first = min((seconds[size] + least[max(0, count - size)], size) for size in ways)
        least.append(time)
        found.append((first, *found[max(0, count - first)]))
    return found
