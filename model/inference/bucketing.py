"""Computing a batch of any size in passes of a few fixed sizes."""

from collections.abc import Mapping

Passes = tuple[int, ...]


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
