"""Load from several processes, since one may be slower than the server that it measures."""

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import chain

from benchmarks.load.generator import Load, Outcome, apply_load, closed_loop, open_loop


@dataclass(frozen=True, slots=True)
class Plan:
    """A load that can be sent to a process.

    Attributes:
        callers: maximum number of requests in flight.
        rate: requests per second of an open loop; ``None`` for a closed loop.
    """

    seconds: float
    callers: int
    rate: float | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        if self.rate is None:
            return f"closed loop of {self.callers}"
        return f"open loop, {self.rate:.4g} per second"

    def load(self) -> Load:
        """The load; its schedule begins when it is first iterated."""
        if self.rate is None:
            return Load(self.name, closed_loop(self.seconds), self.callers)
        return Load(self.name, open_loop(self.seconds, self.rate, seed=self.seed), self.callers)

    def split(self, parts: int) -> list["Plan"]:
        """Split into at most ``parts`` plans that together make the same load."""
        parts = min(parts, self.callers)
        rate = self.rate and self.rate / parts
        counts = [self.callers // parts + (part < self.callers % parts) for part in range(parts)]
        return [
            replace(self, callers=count, rate=rate, seed=self.seed + part)
            for part, count in enumerate(counts)
        ]


async def send_from(
    processes: Executor, count: int, url: str, requests: Sequence[bytes], plan: Plan
) -> Outcome:
    """Send a load from ``count`` processes, a part from each, and merge the outcomes.

    The duration is that of the slowest process, the CPU time that of all processes.
    """
    loop = asyncio.get_running_loop()
    parts = plan.split(count)
    calls = (loop.run_in_executor(processes, _send, url, requests, part) for part in parts)
    return merge(await asyncio.gather(*calls))


def merge(outcomes: Sequence[Outcome]) -> Outcome:
    """Merge the outcomes of loads that ran side by side."""
    whole = Outcome(
        seconds=max(outcome.seconds for outcome in outcomes),
        cpu_seconds=math.fsum(outcome.cpu_seconds for outcome in outcomes),
        latencies=[*chain.from_iterable(outcome.latencies for outcome in outcomes)],
        refusals=[*chain.from_iterable(outcome.refusals for outcome in outcomes)],
    )
    for outcome in outcomes:
        whole.statuses += outcome.statuses
        whole.failures += outcome.failures
        whole.examples |= outcome.examples
    return whole


def _send(url: str, requests: Sequence[bytes], plan: Plan) -> Outcome:
    return asyncio.run(apply_load(url, requests, plan.load()))
