"""A load made by several processes: one alone may be slower than the server that it measures."""

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import chain

from client.load import Load, Outcome, apply_load, closed_loop, open_loop


@dataclass(frozen=True, slots=True)
class Plan:
    """A load that a process can be sent.

    Attributes:
        callers: requests that may be under way.
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
        return f"open loop, {self.rate:.4g} a second"

    def load(self) -> Load:
        """The load, whose schedule begins when first asked."""
        if self.rate is None:
            return Load(self.name, closed_loop(self.seconds), self.callers)
        return Load(self.name, open_loop(self.seconds, self.rate, seed=self.seed), self.callers)

    def split(self, parts: int) -> list["Plan"]:
        """As many plans, fewer if there are fewer callers, that are this one together."""
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
    """Send a load from ``count`` of the processes, each a part of it; the merged outcome.

    Seconds are those of the process that took longest, CPU time that of all.
    """
    loop = asyncio.get_running_loop()
    parts = plan.split(count)
    calls = (loop.run_in_executor(processes, _send, url, requests, part) for part in parts)
    return merge(await asyncio.gather(*calls))


def merge(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome of loads that ran side by side."""
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
