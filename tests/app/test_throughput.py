"""The estimated wait against the true one, in simulated services."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.serving.throughput import Throughput


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Departure:
    """What was estimated when an image had left, and how it went on."""

    at: float
    left: int  # so far
    present: int
    estimated: float
    true: float = 0.0  # seconds until all that were present had left


@dataclass
class Service:
    """Streams that take their share of the queue, as the batcher has it."""

    batch_size: int
    streams: int
    seconds: float  # of a batch
    seconds_per_image: float
    departures: list[Departure] = field(default_factory=list)

    def serve(self, arrivals: Sequence[float]) -> list[Departure]:
        """The state after each departure, of images that arrive in order."""
        clock = Clock()
        throughput = Throughput(clock)
        waiting, free, present = 0, self.streams, 0
        events = [(at, 0, 0) for at in arrivals]  # when, rank, images: arrivals before departures
        while events:
            clock.now, rank, images = heapq.heappop(events)
            if rank == 0:
                throughput.begin()
                present, waiting = present + 1, waiting + 1
            else:
                free += 1
                for _ in range(images):
                    present -= 1
                    throughput.end(1)
                    self._note(clock.now, present, throughput)
                if not present:
                    throughput.pause()
            if events and events[0][:2] == (clock.now, 0):
                continue
            while free and waiting:
                images = min(self.batch_size, math.ceil(waiting / free))
                free, waiting = free - 1, waiting - images
                ended = clock.now + self.seconds + images * self.seconds_per_image
                heapq.heappush(events, (ended, 1, images))
        self._look_back()
        return self.departures

    def _note(self, now: float, present: int, throughput: Throughput) -> None:
        left = len(self.departures) + 1
        self.departures.append(Departure(now, left, present, throughput.seconds_for(present)))

    def _look_back(self) -> None:
        """Images leave in about the order of their arrival."""
        for departure in self.departures:
            last = self.departures[departure.left + departure.present - 1]
            departure.true = last.at - departure.at

    def settled(self) -> list[Departure]:
        """The last of each group of departures, as between them the service does nothing else."""
        pairs = pairwise(self.departures)
        return [one for one, next_one in pairs if next_one.at - one.at > 1e-3 * self.seconds]


services = st.builds(
    Service,
    batch_size=st.integers(1, 16),
    streams=st.integers(1, 4),
    seconds=st.floats(-3, 1).map(lambda exponent: 10**exponent),
    seconds_per_image=st.just(0.0),
)
bursts = st.lists(st.integers(2, 120), min_size=1, max_size=3)


def burst(images: int, begin: float = 0.0) -> list[float]:
    return [begin + 1e-6 * number for number in range(images)]


@given(service=services, share=st.sampled_from([0.0, 0.1, 0.5]), sizes=bursts)
def test_wait_is_never_underestimated_in_a_burst_after_idle_time(
    service: Service, share: float, sizes: list[int]
) -> None:
    service.seconds_per_image = share * service.seconds
    service.serve([at for n, size in enumerate(sizes) for at in burst(size, 1e4 * n)])
    for departure in service.settled():
        assert departure.estimated >= 0.3 * departure.true, departure


@given(service=services, share=st.sampled_from([0.0, 0.1, 0.5]))
def test_wait_is_estimated_within_half_under_steady_load(service: Service, share: float) -> None:
    service.seconds_per_image = share * service.seconds
    images = 400
    service.serve(burst(images))
    full = service.batch_size * service.streams
    for departure in service.settled():
        if departure.left > 4 * full and departure.present > 2 * full:
            assert departure.estimated == pytest.approx(departure.true, rel=0.5), departure


def test_wait_in_a_burst_of_slow_batches() -> None:
    """Four batches of four that take two seconds each: 0.006 s were expected, and 8 s true."""
    service = Service(batch_size=4, streams=1, seconds=2.0, seconds_per_image=0.0)
    departures = service.serve([0.0] * 20)
    assert departures[3].true == 8.0
    assert departures[3].estimated == pytest.approx(8.0, rel=0.1)


def test_idle_time_does_not_lower_the_throughput() -> None:
    service = Service(batch_size=4, streams=1, seconds=0.1, seconds_per_image=0.0)
    service.serve([*burst(40), *burst(40, 3600.0)])
    begun_again = next(d for d in service.departures if d.at > 3600)
    assert begun_again.estimated < 2


def test_slow_batch_raises_the_estimate_before_it_ends() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    throughput.begin()
    for _ in range(100):
        clock.now += 0.01
        throughput.end(10)
    assert throughput.seconds_for(100) == pytest.approx(0.1, rel=0.1)
    clock.now += 5
    assert throughput.seconds_for(1) >= 5
    assert throughput.seconds_for(100) == pytest.approx(50, rel=0.1)


def test_estimate_is_zero_while_the_throughput_is_unknown() -> None:
    clock = Clock()
    throughput = Throughput(clock)
    assert throughput.seconds_for(5) == 0
    throughput.begin()
    clock.now += 5
    assert throughput.seconds_for(5) == 0
