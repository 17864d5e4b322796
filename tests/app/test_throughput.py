"""The estimated wait compared with the actual wait, in simulated services."""

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
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Departure:
    """The estimate after an image has left, and the actual wait."""

    at: float
    left: int  # so far
    present: int
    estimated: float
    true: float = 0.0  # actual seconds until all present images had left


@dataclass
class Service:
    """Simulated inference threads that share the queue like the batcher's."""

    batch_size: int
    streams: int
    seconds: float  # per batch
    seconds_per_image: float
    departures: list[Departure] = field(default_factory=list)

    def serve(self, arrivals: Sequence[float]) -> list[Departure]:
        """The estimates after each departure, for images that arrive at these times."""
        clock = Clock()
        throughput = Throughput(clock)
        waiting, free, present = 0, self.streams, 0
        events = [
            (at, 0, 0) for at in arrivals
        ]  # time, rank, images; arrivals precede departures at the same time
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
        """Set the actual waits; images leave roughly in the order of their arrival."""
        for departure in self.departures:
            last = self.departures[departure.left + departure.present - 1]
            departure.true = last.at - departure.at

    def last_departures(self) -> list[Departure]:
        """The last of each group of simultaneous departures."""
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
    for departure in service.last_departures():
        assert departure.estimated >= 0.3 * departure.true * (1 - 1e-3), departure


@given(service=services, share=st.sampled_from([0.0, 0.1, 0.5]))
def test_wait_is_estimated_within_half_under_steady_load(service: Service, share: float) -> None:
    service.seconds_per_image = share * service.seconds
    images = 400
    service.serve(burst(images))
    full = service.batch_size * service.streams
    for departure in service.last_departures():
        if departure.left > 4 * full and departure.present > 2 * full:
            assert departure.estimated == pytest.approx(departure.true, rel=0.5), departure


def test_wait_in_a_burst_of_slow_batches() -> None:
    """Four batches of four take 2 s each, so the right estimate is 8 s."""
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
