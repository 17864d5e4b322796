"""A model of the replicas, and of the metrics that Prometheus computes from them."""

import math
import random
from dataclasses import dataclass, field

MOST_REFUSED = 10.0  # as in the query `refused`
FEW_REFUSED = 0.01
LEAST_RATE = 0.1  # of the throughput that refusals leave


@dataclass(frozen=True, slots=True)
class Server:
    """One replica.

    With ``n`` images in it, a replica serves ``rate * n / (n + half)`` images per second: batches
    grow with the number of waiting images. So at a share ``s`` of its throughput it holds ``half *
    s / (1 - s)`` images.

    Attributes:
        rate: images per second under full load.
        half: images in a replica that serves half of that.
        start: seconds until a new replica gets requests.
        refusal: the work of refusing an image, as a part of the work of serving one.
        queue: XCIT_MAX_QUEUE_SIZE; deadline: XCIT_REQUEST_TIMEOUT_S.
    """

    rate: float
    half: float
    start: float
    refusal: float = 0.0
    queue: int = 256
    deadline: float = 10.0

    @property
    def bound(self) -> float:
        """Images that are admitted at most: all places, or what is served within the deadline."""
        return min(self.queue, self.rate * self.deadline)


@dataclass(slots=True)
class Replica:
    """A replica; ``samples`` are its scraped counters: when, served, refused."""

    ready: float
    images: float = 0.0
    served: float = 0.0
    refused: float = 0.0
    refusals: float = 0.0  # per second, in the last step
    scraped_images: float = 0.0
    samples: list[tuple[float, float, float]] = field(default_factory=list)

    def step(self, server: Server, seconds: float, arriving: float) -> tuple[float, float]:
        """Serve for some seconds; returns the refused images, and the seconds of the others."""
        rate = max(LEAST_RATE * server.rate, server.rate - server.refusal * self.refusals)
        offered = self.images + arriving
        # The implicit Euler step of: images' = arrivals - rate * images / (images + half)
        half = offered - server.half - seconds * rate
        after = (half + math.sqrt(half * half + 4 * server.half * offered)) / 2
        refused = min(arriving, max(0.0, after - server.bound))
        self.served += offered - after
        self.refused += refused
        self.refusals = refused / seconds
        self.images = after - refused
        return refused, (self.images + server.half) / rate

    def scrape(self, now: float) -> None:
        self.samples.append((now, self.served, self.refused))
        self.scraped_images = self.images

    def rates(self, now: float, seconds: float) -> tuple[float, float]:
        """Images served and refused per second, as ``rate`` of Prometheus computes them."""
        window = [sample for sample in self.samples[-64:] if sample[0] >= now - seconds]
        if len(window) < 2:
            return 0.0, 0.0
        (first, *before), (last, *after) = window[0], window[-1]
        served, refused = (
            (late - early) / (last - first) for early, late in zip(before, after, strict=True)
        )
        return served, refused


class Service:
    """Replicas behind a balancer that spreads requests evenly; requests arrive at random."""

    def __init__(self, server: Server, replicas: int, *, seed: int = 0) -> None:
        self._server = server
        self._random = random.Random(seed)
        self.replicas = [Replica(-math.inf) for _ in range(replicas)]

    def scale(self, replicas: int, now: float) -> None:
        """Add replicas, which load first, or remove the newest."""
        while len(self.replicas) < replicas:
            self.replicas.append(Replica(now + self._server.start))
        del self.replicas[replicas:]

    def ready(self, now: float) -> list[Replica]:
        return [replica for replica in self.replicas if replica.ready <= now]

    def step(self, now: float, seconds: float, rate: float) -> tuple[float, float, float]:
        """Offer images at a rate; returns arrivals, refusals and the mean seconds of the others."""
        ready = self.ready(now)
        arrivals = refusals = waited = 0.0
        for replica in ready:
            mean = rate * seconds / len(ready)
            arriving = max(0.0, self._random.gauss(mean, math.sqrt(mean)))
            refused, latency = replica.step(self._server, seconds, arriving)
            arrivals += arriving
            refusals += refused
            waited += (arriving - refused) * latency
        accepted = arrivals - refusals
        return arrivals, refusals, waited / accepted if accepted else 0.0

    def scrape(self, now: float) -> None:
        for replica in self.ready(now):
            replica.scrape(now)

    def totals(self, now: float, seconds: float) -> dict[str, float | None]:
        """The three scaling queries, with rates over some seconds."""
        server, ready = self._server, self.ready(now)
        settled = [replica for replica in ready if replica.ready <= now - seconds]
        rates = [replica.rates(now, seconds) for replica in ready]
        served, refused = (sum(each) for each in zip(*rates, strict=True))
        needed = 0.0
        if refused > FEW_REFUSED * served:
            share = refused / served if served else math.inf
            needed = len(ready) * min(1 + share, MOST_REFUSED)
        busy = (replica.rates(now, seconds) for replica in settled)
        load = sum(images + server.refusal * more for images, more in busy) / server.rate
        return {
            "load": load if settled else None,
            "waiting": sum(replica.scraped_images for replica in ready) / server.queue,
            "refused": needed,
        }
