"""Metrics of batches, counted where they run and collected where metrics are scraped."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

BATCH_SIZES = tuple(1 << i for i in range(11))  # upper bounds of the buckets, without infinity
BUCKETS = len(BATCH_SIZES) + 1


class BatchCounts(Protocol):
    """Counts of the successful batches of one engine."""

    @property
    def by_size(self) -> Sequence[int]:
        """The number of batches in each of the `BUCKETS`, from the smallest sizes up."""

    @property
    def images(self) -> int:
        """Images in all batches."""

    @property
    def padding(self) -> int:
        """Rows computed only as padding."""

    @property
    def busy_seconds(self) -> float:
        """Seconds spent on batches, summed over all inference threads."""


def bucket_of(size: int) -> int:
    """The index of the bucket of a batch."""
    return bisect_left(BATCH_SIZES, size)


class LocalBatchCounts:
    """Counts in this process."""

    def __init__(self) -> None:
        self.images = self.padding = 0
        self.busy_seconds = 0.0
        self.by_size = [0] * BUCKETS

    def add(self, size: int, padding: int, seconds: float) -> None:
        """Count a batch."""
        self.by_size[bucket_of(size)] += 1
        self.images += size
        self.padding += padding
        self.busy_seconds += seconds


class BatchCollector(Collector):
    """The metrics of the batches of all engines.

    Args:
        engines: the counts of each engine.
    """

    def __init__(self, engines: Callable[[], Sequence[BatchCounts]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        engines = self._engines()
        by_size = [sum(counts) for counts in zip(*(each.by_size for each in engines), strict=True)]
        bounds = [*map(floatToGoString, BATCH_SIZES), "+Inf"]
        yield HistogramMetricFamily(
            "xcit_batch_size",
            "Images per batch; the sum is the number of classified images.",
            buckets=[*zip(bounds, accumulate(by_size), strict=True)],
            sum_value=sum(each.images for each in engines),
        )
        yield CounterMetricFamily(
            "xcit_batch_padding",
            "Rows computed only as padding.",
            value=sum(each.padding for each in engines),
        )
        yield CounterMetricFamily(
            "xcit_stream_busy_seconds",
            "Seconds spent on batches, summed over all inference threads.",
            value=sum(each.busy_seconds for each in engines),
        )
