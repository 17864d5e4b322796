"""A server under several times its capacity: goodput, latency and recovery.

    python -m benchmarks.overload --checkpoint FILE --images DIR

A closed loop of 32 callers measures the capacity. An open loop then sends a multiple of it,
whatever the answers are. Then single requests show how soon latency is back to normal. The load
itself takes part of the server's cores: `--images` of a few kilobytes reduce that.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from app.config.settings import Settings
from benchmarks.client import post_image, read_images
from benchmarks.load.connection import Connection
from benchmarks.load.generator import Load, Outcome, apply_load, closed_loop, open_loop
from benchmarks.load.report import statuses
from benchmarks.machine import provenance
from benchmarks.server import read_metrics, started_server

CALLERS = 32
CAPACITY_SECONDS = 8.0
MAX_OUTSTANDING = 1024
RECOVERY_SECONDS = 3.0
QUEUE: int = Settings.model_fields["max_queue_size"].default


@dataclass(frozen=True, slots=True)
class Overload:
    """Results before, during and after; memory in bytes; start and duration of single requests."""

    capacity: Outcome
    lone_before: float
    overload: Outcome
    memory_before: float
    memory_peak: float
    after: list[tuple[float, float]]

    @property
    def goodput(self) -> float:
        """Throughput of good answers under overload, over the capacity."""
        return self.overload.throughput / self.capacity.throughput

    @property
    def predicted(self) -> float:
        """Estimated wait of the last image in a full queue, at the throughput under overload."""
        return QUEUE / self.overload.throughput

    @property
    def recovery(self) -> float:
        """Seconds after the load until no single request took twice as long as before."""
        slow = [begun for begun, seconds in self.after if seconds > 2 * self.lone_before]
        return max(slow, default=0.0)


async def overload(url: str, images: Sequence[bytes], times: float, seconds: float) -> Overload:
    requests = [post_image(image) for image in images]
    await apply_load(url, requests, Load("warm-up", closed_loop(3.0), 4))
    lone = [seconds for _, seconds in await send_alone(url, requests, 2.0)]
    capacity = await apply_load(
        url, requests, Load("closed", closed_loop(CAPACITY_SECONDS), CALLERS)
    )
    before = (await read_metrics(url))["process_resident_memory_bytes"]
    watching = asyncio.create_task(watch_memory(url))
    schedule = open_loop(seconds, times * capacity.throughput)
    outcome = await apply_load(url, requests, Load("open", schedule, MAX_OUTSTANDING))
    after = await send_alone(url, requests, RECOVERY_SECONDS)
    watching.cancel()
    peak = max(await watching)
    return Overload(capacity, median(lone), outcome, before, peak, after)


async def send_alone(
    url: str, requests: Sequence[bytes], seconds: float
) -> list[tuple[float, float]]:
    """Send single requests: when each began, counted from now, and its seconds."""
    found: list[tuple[float, float]] = []
    begun = time.monotonic()
    with closing(Connection(url)) as connection:
        while (now := time.monotonic() - begun) < seconds:
            await connection.send(requests[len(found) % len(requests)])
            found.append((now, time.monotonic() - begun - now))
    return found


async def watch_memory(url: str) -> list[float]:
    """Resident bytes, read twice per second until cancelled."""
    found = [0.0]
    try:
        while True:
            found.append((await read_metrics(url))["process_resident_memory_bytes"])
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        return found


def report(found: Overload, times: float) -> str:
    outcome = found.overload
    rows = {
        "capacity, closed loop of 32": f"{found.capacity.throughput:.0f} images/s",
        f"good answers at {times:g} times the capacity": f"{outcome.throughput:.0f} images/s, "
        f"**{found.goodput:.2f}** of capacity",
        "p50, p99 of good answers": f"{outcome.percentile(50):.2f}, {outcome.percentile(99):.2f} s",
        f"a full queue of {QUEUE} at that rate": f"{found.predicted:.2f} s",
        "median of refusals": f"{1e3 * median(outcome.refusals):.0f} ms",
        "statuses": statuses(outcome),
        "memory before, and peak": f"{found.memory_before / 2**20:.0f}, "
        f"{found.memory_peak / 2**20:.0f} MiB",
        "latency back to normal": f"{found.recovery:.2f} s after",
    }
    lines = ["| figure | measured |", "| --- | --- |"]
    return "\n".join(lines + [f"| {name} | {value} |" for name, value in rows.items()])


async def benchmark(args: argparse.Namespace) -> None:
    images = read_images(args.images)
    async with started_server(args.checkpoint) as url:
        found = await overload(url, images, args.times, args.seconds)
    print(provenance(), report(found, args.times), sep="\n\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="directory of image files")
    parser.add_argument(
        "--times", type=float, default=3.0, help="load as a multiple of the capacity [3]"
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    asyncio.run(benchmark(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
