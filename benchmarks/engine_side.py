"""CPU time of an engine process per image, apart from the forward pass.

    python -m benchmarks.engine_side --checkpoint dim128.safetensors

This process plays the supervisor and a worker: it submits slots to a real engine process, whose
model answers at once. So the figure contains all that the engine does for an image: messages, the
queue, copying slots into a batch, and writing logits into slots.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.config.process_plan import ProcessPlan
from app.config.settings import Settings
from app.observability.process_metrics import read_resources
from app.processes.channel import socket_pair
from app.processes.engine_link import EngineLink, SlotPermits
from app.processes.family import Family
from app.processes.messages import Status, Submit
from app.processes.models import Models
from app.processes.slots import Claim
from benchmarks.machine import provenance
from benchmarks.report import table
from model.checkpoint import BUNDLED_CHECKPOINT

SIZES = (1, 8, 16)
SLOTS = 4096
RATE = 3000.0  # images per second of the open load
TARGETS = {"bursts of 8": 60, "bursts of 16": 40, "open load of 3,000/s": 100}  # microseconds


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a load: images per second, mean batch, CPU seconds of the engine per image."""

    name: str
    rate: float
    batch: float
    cpu_per_image: float

    @property
    def row(self) -> tuple[str, ...]:
        target = TARGETS.get(self.name)
        return (
            self.name,
            f"{self.rate:,.0f}",
            f"{self.batch:.1f}",
            f"{1e6 * self.cpu_per_image:.1f}",
            f"{target}" if target else "",
        )


class Driver:
    """A worker without HTTP and decoding."""

    def __init__(self, family: Family, link: EngineLink, permits: SlotPermits) -> None:
        self._family = family
        self._link = link
        self._permits = permits
        self._tasks: set[asyncio.Task[None]] = set()

    async def measure(self, name: str, load: Coroutine[Any, Any, None]) -> Cost:
        """The cost of a load."""
        status = self._family.page.engine(0)
        images, batches, cpu, begun = status.images, status.batches, self._cpu(), time.monotonic()
        await load
        count = status.images - images
        return Cost(
            name,
            rate=count / (time.monotonic() - begun),
            batch=count / (status.batches - batches),
            cpu_per_image=(self._cpu() - cpu) / count,
        )

    async def bursts(self, size: int, seconds: float) -> None:
        """Submit ``size`` images together whenever the last ones have been answered."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await self._submit(size)

    async def arrivals(self, rate: float, seconds: float) -> None:
        """Submit single images at random times, ``rate`` per second, whatever the engine does."""
        chance = random.Random(0)
        due = time.monotonic()
        end = due + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            while due <= time.monotonic():
                task = asyncio.create_task(self._submit(1))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                due += chance.expovariate(rate)
        await asyncio.gather(*self._tasks)

    async def _submit(self, count: int) -> None:
        claims = self._permits.take(count)
        if claims is None:
            raise RuntimeError("the engine does not keep pace: no slot is free")
        await asyncio.gather(*map(self._classify, claims))
        self._permits.give_back(claims)

    async def _classify(self, claim: Claim) -> None:
        self._family.slots.submit(claim, 0)
        submit = Submit(claim.slot, claim.generation, 1, 5, floats=False, deadline=float("inf"))
        done = await self._link.submit(submit, claim)
        if done.status is not Status.OK:
            raise RuntimeError(f"an image was answered with {done.status.name}")

    def _cpu(self) -> float:
        resources = read_resources(self._family.processes()["engine-0"])
        assert resources
        return resources.cpu_seconds


@asynccontextmanager
async def driver(checkpoint: Path) -> AsyncIterator[Driver]:
    """An engine that serves a checkpoint without its forward pass, and a driver of it."""
    settings = Settings(
        checkpoint=str(checkpoint), device="cpu", backend="torch", max_queue_size=SLOTS, streams=1
    )
    tasks: set[asyncio.Task[Any]] = set()
    family = Family(
        settings,
        ProcessPlan(devices=("cpu",)),
        listeners=[],
        module="benchmarks.instant",
        on_engine=lambda engine, message: None,
        on_worker=lambda worker, message: None,
        on_restart=lambda: None,
        on_failure=lambda reason: print(reason, file=sys.stderr),
        start=lambda work: tasks.add(asyncio.ensure_future(work)),
    )
    await family.start()
    models = Models(family.page, family.data, family.slots.count, family.engines, list)
    await models.switch(await models.load({}))
    permits = SlotPermits(family.slots, worker=0)
    link = EngineLink(0, permits, lambda reason: None)
    ours, theirs = socket_pair()
    family.engines[0].introduce(0, theirs)
    await link.open(ours)
    try:
        yield Driver(family, link, permits)
    finally:
        await family.stop()
        for task in tasks:
            task.cancel()


async def measure(checkpoint: Path, seconds: float, rounds: int) -> list[Cost]:
    """The median cost of each load, from several rounds."""
    async with driver(checkpoint) as engine:
        await engine.bursts(SIZES[-1], seconds / 4)  # warm-up
        found: list[list[Cost]] = []
        for _ in range(rounds):
            costs = [
                await engine.measure(f"bursts of {size}", engine.bursts(size, seconds))
                for size in SIZES
            ]
            name = f"open load of {RATE:,.0f}/s"
            costs.append(await engine.measure(name, engine.arrivals(RATE, seconds)))
            found.append(costs)
    return [
        sorted(costs, key=lambda cost: cost.cpu_per_image)[rounds // 2]
        for costs in zip(*found, strict=True)
    ]


def report(costs: Sequence[Cost]) -> str:
    head = ("load", "images/s", "mean batch", "engine, CPU µs per image", "goal")
    return table(head, [cost.row for cost in costs])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine_side",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED_CHECKPOINT)
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of each load [4]")
    parser.add_argument("--rounds", type=int, default=3, help="each load is repeated [3]")
    args = parser.parse_args(argv)
    costs = asyncio.run(measure(args.checkpoint, args.seconds, args.rounds))
    print("# The cost of an engine", provenance(), report(costs), sep="\n\n")


if __name__ == "__main__":
    main()
