"""Measures one real server: the parameters of its model, and a check of the model."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import yaml

from benchmarks.autoscale.autoscaler import KUBERNETES
from benchmarks.autoscale.service import Server, Service
from benchmarks.autoscale.simulation import STEP
from benchmarks.client import post_image
from benchmarks.load.generator import Load, Outcome, apply_load, closed_loop, open_loop
from benchmarks.server import started_server

CALLERS = 32
FITTED, CHECKED = 2.0, 3.0  # overloads, as multiples of the throughput
MAX_OUTSTANDING = 1024
POD_SECONDS = 5.0  # assumed: to schedule a pod, start its container and publish its address


@dataclass(frozen=True, slots=True)
class Measured:
    """A real server.

    Attributes:
        ready: seconds until READY, with an empty cache, as in a new pod.
        alone: images per second of one caller; together: of `CALLERS` callers.
        overloads: the outcome of each multiple of that.
    """

    ready: float
    alone: float
    together: float
    overloads: Mapping[float, Outcome]

    @property
    def server(self) -> Server:
        """The model of this server; the smaller overload shows the work of a refusal."""
        outcome = self.overloads[FITTED]
        refusals = outcome.statuses[503] / outcome.seconds
        return Server(
            refusal=max(0.0, (self.together - outcome.throughput) / refusals),
            rate=self.together,
            half=max(0.5, self.together / self.alone - 1),
            start=self.ready + probe_period() + POD_SECONDS,
        )


def probe_period() -> float:
    """Seconds between two readiness checks of a pod."""
    manifest = yaml.safe_load((KUBERNETES.parent / "base/deployment.yml").read_text())
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return float(container["readinessProbe"]["periodSeconds"])


async def measure(checkpoint: Path, images: Sequence[bytes], seconds: float) -> Measured:
    """Measure a server that is started for this."""
    requests = [post_image(image) for image in images]
    with tempfile.TemporaryDirectory() as cache:
        begun = time.monotonic()
        async with started_server(checkpoint, f"--cache-dir={cache}") as url:
            ready = time.monotonic() - begun
            await apply_load(url, requests, Load("warm-up", closed_loop(2.0), 4))
            alone = await apply_load(url, requests, Load("closed", closed_loop(seconds), 1))
            together = await apply_load(
                url, requests, Load("closed", closed_loop(seconds), CALLERS)
            )
            overloads = {}
            for times in (FITTED, CHECKED):
                schedule = open_loop(seconds, times * together.throughput)
                overload = Load("open", schedule, MAX_OUTSTANDING)
                overloads[times] = await apply_load(url, requests, overload)
    return Measured(ready, alone.throughput, together.throughput, overloads)


def best(rounds: Sequence[Measured]) -> Measured:
    """The best of each figure: whatever else the machine does only slows a server down."""
    return Measured(
        min(each.ready for each in rounds),
        max(each.alone for each in rounds),
        max(each.together for each in rounds),
        max(rounds, key=lambda each: each.together).overloads,
    )


def refused(outcome: Outcome) -> float:
    """The share of requests that were refused."""
    return outcome.statuses[503] / sum(outcome.statuses.values())


def predict(server: Server, times: float, seconds: float) -> tuple[float, float]:
    """The share of refusals in an overload, and the median seconds of the others, by the model."""
    service = Service(server, 1)
    arrivals = refusals = 0.0
    latencies = []
    for number in range(1, round(seconds / STEP) + 1):
        arrived, more, latency = service.step(number * STEP, STEP, times * server.rate)
        arrivals += arrived
        refusals += more
        latencies.append(latency)
    return refusals / arrivals, median(latencies)
