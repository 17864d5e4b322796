"""The cost and gain of HTTP workers on this machine, and the capacity of a larger one.

    python -m benchmarks.processes --images photos --checkpoint dim128.safetensors

Services with one process and with two workers run at the same time and are loaded in turn:
throughput, single requests, starts, memory. Then the costs of an engine (`benchmarks.engine_side`)
and of a worker (`benchmarks.worker_side`) predict the throughput of a machine with more cores:

    min(1 / engine, cores / (worker + engine), model)
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import engine_side, worker_side
from benchmarks.client import post_image, read_images
from benchmarks.load.connection import Connection
from benchmarks.load.generator import Load, apply_load, closed_loop
from benchmarks.machine import provenance
from benchmarks.report import table
from benchmarks.server import read_processes, started_server
from model.checkpoint import BUNDLED_CHECKPOINT

CALLERS = 32
LONE_REQUESTS = 100
STARTS = 5
MIB = 2**20


@dataclass(slots=True)
class Pair:
    """A figure of one process and of two workers, measured in turn."""

    one: list[float]
    two: list[float]

    @property
    def ratio(self) -> float:
        """The median ratio of two workers to one process, in pairs."""
        return median(two / one for one, two in zip(self.one, self.two, strict=True))

    @property
    def surplus(self) -> float:
        """The median difference, in pairs."""
        return median(two - one for one, two in zip(self.one, self.two, strict=True))


async def throughput(url: str, requests: Sequence[bytes], seconds: float) -> float:
    load = Load("closed", closed_loop(seconds), CALLERS)
    outcome = await apply_load(url, requests, load)
    if set(outcome.statuses) != {200}:
        raise RuntimeError(f"answers: {dict(outcome.statuses)} {dict(outcome.failures)}")
    return outcome.throughput


async def lone(connection: Connection, request: bytes) -> float:
    """Seconds of a single request."""
    begun = time.perf_counter()
    await connection.send(request)
    return time.perf_counter() - begun


async def compare(
    checkpoint: Path, images: Sequence[bytes], rounds: int, seconds: float
) -> tuple[Pair, Pair]:
    """Throughput and seconds of single requests."""
    requests = [post_image(image) for image in images]
    rates, singles = Pair([], []), Pair([], [])
    async with (
        started_server(checkpoint, "--http-workers=0") as one,
        started_server(checkpoint, "--http-workers=2") as two,
    ):
        for url in (one, two):
            await throughput(url, requests, seconds / 2)  # warm-up
        for number in range(rounds):
            both = [(one, rates.one), (two, rates.two)]
            for url, found in both if number % 2 else reversed(both):
                found.append(await throughput(url, requests, seconds))
        with closing(Connection(one)) as first, closing(Connection(two)) as second:
            for number in range(LONE_REQUESTS):
                request = requests[number % len(requests)]
                singles.one.append(await lone(first, request))
                singles.two.append(await lone(second, request))
    return rates, singles


async def start(checkpoint: Path, workers: str) -> tuple[float, dict[str, float]]:
    """Seconds to READY, and the bytes of each process then."""
    begun = time.perf_counter()
    async with started_server(checkpoint, f"--http-workers={workers}") as url:
        return time.perf_counter() - begun, await read_processes(url, "resident_memory_bytes")


async def starts(checkpoint: Path) -> tuple[Pair, float]:
    """Seconds to READY, and the bytes of a worker."""
    pair, memory = Pair([], []), []
    for _ in range(STARTS):
        pair.one.append((await start(checkpoint, "0"))[0])
        seconds, processes = await start(checkpoint, "2")
        pair.two.append(seconds)
        memory += [value for name, value in processes.items() if name.startswith("worker")]
    return pair, median(memory)


async def measure_here(
    checkpoints: Sequence[Path], images: Sequence[bytes], rounds: int, seconds: float
) -> str:
    rows = []
    for checkpoint in checkpoints:
        rates, singles = await compare(checkpoint, images, rounds, seconds)
        times, memory = await starts(checkpoint)
        rows.append(
            (
                checkpoint.stem,
                f"{median(rates.one):.0f}",
                f"{median(rates.two):.0f}",
                f"**{rates.ratio:.3f}**",
                f"{1e3 * median(singles.one):.2f}",
                f"{1e3 * singles.surplus:+.2f}",
                f"{median(times.one):.2f}",
                f"{times.surplus:+.2f}",
                f"{memory / MIB:.0f}",
            )
        )
    goals = ("goal", "", "", "0.97", "", "+0.30", "", "+0.50", "80")
    head = (
        *("checkpoint", "images/s, one process", "two workers", "ratio in pairs"),
        *("lone request, ms", "two workers, ms", "start, s", "two workers, s", "worker, MiB"),
    )
    return table(head, [*rows, goals])


def predict(
    engine: Sequence[engine_side.Cost], worker: worker_side.Costs, cores: int, model: float
) -> str:
    """The throughput of a machine with more cores, by the cost of the engine in each load."""
    rows = []
    for cost in engine:
        limits = (1 / cost.cpu_per_image, cores / (worker.worker + cost.cpu_per_image), model)
        rows.append((cost.name, *(f"{limit:,.0f}" for limit in limits), f"**{min(limits):,.0f}**"))
    head = ("engine's load", "1 / engine", f"{cores} / (worker + engine)", "model", "images/s")
    return table(head, rows)


async def run(args: argparse.Namespace) -> None:
    images = read_images(args.images)
    checkpoints = args.checkpoint or [BUNDLED_CHECKPOINT]
    here = await measure_here(checkpoints, images, args.rounds, args.seconds)
    worker = await worker_side.measure(images, args.rounds, args.seconds, decoding=True)
    engine = await engine_side.measure(checkpoints[-1], args.seconds, args.rounds)
    print(
        "# HTTP workers",
        provenance(),
        f"{CALLERS} callers in a closed loop; {LONE_REQUESTS} single requests, in turn; {STARTS} "
        "starts of each.",
        here,
        engine_side.report(engine),
        worker_side.report("with decoding", worker),
        f"Predicted for {args.cores} cores and a model of {args.model:,.0f} images/s, without the "
        "load generator:",
        predict(engine, worker[worker_side.COUNTS[-1]], args.cores, args.model),
        sep="\n\n",
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.processes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, required=True, help="directory of photos")
    parser.add_argument(
        "--checkpoint", type=Path, nargs="*", help="checkpoints to compare [the bundled one]"
    )
    parser.add_argument("--rounds", type=int, default=6, help="loads of each service [6]")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each load [5]")
    parser.add_argument("--cores", type=int, default=16, help="of the larger machine [16]")
    parser.add_argument(
        "--model", type=float, default=10_000.0, help="images/s of its bare model [10000]"
    )
    asyncio.run(run(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
