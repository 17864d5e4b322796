"""The throughput of the whole service, measured while it works."""

import math
from collections.abc import Callable

MEMORY = 1.0  # seconds of work that the average covers, or two batches if they take longer


class Throughput:
    """Estimates how long a number of images takes, from when images arrived and left.

    The time of work is measured from the arrival that ends an idle period, and after that from one
    departure to the next. So a first batch counts with all of its seconds, however many images
    leave together at its end, and idle time counts for nothing. Images over seconds, both fading
    over `MEMORY` seconds of work, are the throughput: exact under steady load, and after a few
    batches of a burst. At the beginning of a burst the estimate may be too long, as single images
    show less than full batches can do, but not too short.

    Two corrections cover slow batches. No estimate is below the longest recent interval between
    departures, because an image cannot leave before its batch. And when nothing has left for
    longer than that, the batch under way is slower than all before it, and the estimate grows in
    proportion.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._images = 0.0
        self._seconds = 0.0  # that those images took; both fade
        self._interval = 0.0  # the longest between two departures; fades, too
        self._since: float | None = None  # the last departure, or the arrival after an idle time

    def begin(self) -> None:
        """Note an arrival."""
        if self._since is None:
            self._since = self._clock()

    def pause(self) -> None:
        """Note that no image is left."""
        self._since = None

    def end(self, served: int) -> None:
        """Note a departure of ``served`` images.

        Images that leave without an answer are not noted: their time counts for those that were
        served beside them, or for nothing.
        """
        now = self._clock()
        interval = now - self._since if self._since is not None else 0.0
        fading = math.exp(-interval / max(MEMORY, 2 * self._interval))
        self._images = self._images * fading + served
        self._seconds = self._seconds * fading + interval
        self._interval = max(self._interval * math.exp(-interval / MEMORY), interval)
        self._since = now

    def seconds_for(self, images: int) -> float:
        """Seconds in which so many images will have left; 0 while the throughput is unknown."""
        if not images or not self._images:
            return 0.0
        expected = max(self._interval, images * self._seconds / self._images)
        waited = self._clock() - self._since if self._since is not None else 0.0
        return expected * max(1.0, waited / self._interval) if self._interval else expected
