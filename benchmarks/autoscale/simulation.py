"""Load curves, and runs of the autoscaled service under them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.autoscale.autoscaler import SYNC, Autoscaler, Scaling
from benchmarks.autoscale.service import Server, Service

STEP = 0.25  # seconds

Curve = Callable[[float], float]  # images per second, by seconds


@dataclass(frozen=True, slots=True)
class Moment:
    """What happened in one step; ``latency`` is the mean of the images that were not refused."""

    when: float
    arrivals: float
    refusals: float
    latency: float
    ready: int
    replicas: int


@dataclass(slots=True)
class Run:
    """The moments of a simulation, in order."""

    moments: list[Moment] = field(default_factory=list)

    def between(self, begin: float, end: float) -> "Run":
        return Run([moment for moment in self.moments if begin <= moment.when < end])

    @property
    def refused(self) -> float:
        """The share of refused images."""
        arrivals = sum(moment.arrivals for moment in self.moments)
        return sum(moment.refusals for moment in self.moments) / arrivals if arrivals else 0.0

    @property
    def changes(self) -> list[int]:
        """Every change of the number of replicas."""
        counts = [moment.replicas for moment in self.moments]
        return [b - a for a, b in pairwise(counts) if a != b]

    @property
    def reversals(self) -> int:
        """How often the number of replicas rises after it fell, or falls after it rose."""
        return sum((a > 0) != (b > 0) for a, b in pairwise(self.changes))

    @property
    def most(self) -> int:
        return max(moment.replicas for moment in self.moments)

    @property
    def mean_replicas(self) -> float:
        return sum(moment.replicas for moment in self.moments) / len(self.moments)

    def latency(self, percent: float) -> float:
        """Seconds within which that part of the images is answered; see `Moment.latency`."""
        order = sorted((m.latency, m.arrivals - m.refusals) for m in self.moments)
        left = percent / 100 * sum(images for _, images in order)
        for seconds, images in order:
            left -= images
            if left <= 0:
                return seconds
        return math.nan


def constant(rate: float) -> Curve:
    return lambda when: rate


def ramp(low: float, high: float, begin: float, seconds: float, hold: float = math.inf) -> Curve:
    """From ``low`` to ``high`` within some seconds, and back after ``hold`` seconds."""

    def rate(when: float) -> float:
        up = _part(when, begin, seconds)
        down = _part(when, begin + seconds + hold, seconds)
        return low + (high - low) * (up - down)

    return rate


def _part(when: float, begin: float, seconds: float) -> float:
    """The part of a rise that is over."""
    if when <= begin:
        return 0.0
    return min(1.0, (when - begin) / seconds) if seconds else 1.0


def wave(low: float, high: float, period: float) -> Curve:
    """Between two rates, as a sine."""
    middle, size = (low + high) / 2, (high - low) / 2
    return lambda when: middle - size * math.cos(2 * math.pi * when / period)


def simulate(
    scaling: Scaling, server: Server, curve: Curve, seconds: float, *, seed: int = 0
) -> Run:
    """Run the service and its autoscaler for some seconds, from the least replicas."""
    autoscaler, service = Autoscaler(scaling), Service(server, scaling.least, seed=seed)
    run = Run()
    every: Mapping[str, int] = {"scrape": round(scaling.scrape / STEP), "sync": round(SYNC / STEP)}
    for number in range(1, round(seconds / STEP) + 1):
        now = number * STEP
        arrivals, refusals, latency = service.step(now, STEP, curve(now))
        if number % every["scrape"] == 0:
            service.scrape(now)
        if number % every["sync"] == 0:
            service.scale(autoscaler.sync(now, service.totals(now, scaling.rates)), now)
        ready = len(service.ready(now))
        run.moments.append(Moment(now, arrivals, refusals, latency, ready, len(service.replicas)))
    return run
