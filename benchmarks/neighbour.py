"""Throughput on PyTorch after the service has started next to a busy process.

    python -m benchmarks.neighbour --starts 20 --out benchmarks/results/neighbour.md

A process that is busy in bursts runs while the server starts, measures and chooses. Throughput is
then measured twice: while that process runs, and while it is stopped. The reference is a server
that started and was measured on a quiet machine. A closed loop sends a generated image.
"""

import argparse
import asyncio
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.client import post_image
from benchmarks.load.generator import Load, apply_load, closed_loop
from benchmarks.load.sample import sample_picture
from benchmarks.machine import provenance
from benchmarks.report import table
from benchmarks.server import served_model, started_server
from model.checkpoint import BUNDLED_CHECKPOINT

QUIET_STARTS = 3
CALLERS = 16
WARM_UP_SECONDS = 0.5
LEAST_SHARE = 0.5  # of the throughput on a quiet machine, at every start


@dataclass(frozen=True, slots=True)
class Bursts:
    """Seconds for which each busy process is alternately busy and idle."""

    processes: int
    busy: float
    idle: float


@dataclass(frozen=True, slots=True)
class Start:
    """The choice made at a start, and images per second with the busy processes and without."""

    streams: int
    max_batch_size: int
    beside: float
    quiet: float


def work_in_bursts(busy: float, idle: float) -> None:
    while True:
        until = time.perf_counter() + busy
        while time.perf_counter() < until:
            pass
        time.sleep(idle)


@contextmanager
def neighbours(bursts: Bursts) -> Iterator[list[int]]:
    """Start processes that are busy in bursts; yields their ids."""
    context = multiprocessing.get_context("spawn")
    arguments = (bursts.busy, bursts.idle)
    processes = [
        context.Process(target=work_in_bursts, args=arguments, daemon=True)
        for _ in range(bursts.processes)
    ]
    for process in processes:
        process.start()
    try:
        yield [process.pid for process in processes if process.pid]
    finally:
        for process in processes:
            process.kill()
            process.join()


def send(signal_number: signal.Signals, processes: Sequence[int]) -> None:
    for process in processes:
        os.kill(process, signal_number)


async def throughput(url: str, seconds: float) -> float:
    requests = [post_image(sample_picture())]
    await apply_load(url, requests, Load("warm-up", closed_loop(WARM_UP_SECONDS), CALLERS))
    outcome = await apply_load(url, requests, Load("closed", closed_loop(seconds), CALLERS))
    return outcome.throughput


async def start(checkpoint: Path, seconds: float, processes: Sequence[int] = ()) -> Start:
    """Start a server next to ``processes``, which are stopped for the second measurement."""
    async with started_server(checkpoint, "--backend=torch", "--device=cpu") as url:
        served = await served_model(url)
        beside = await throughput(url, seconds)
        send(signal.SIGSTOP, processes)
        try:
            quiet = await throughput(url, seconds)
        finally:
            send(signal.SIGCONT, processes)
    return Start(int(served["streams"]), int(served["max_batch_size"]), beside, quiet)


async def starts_next_to_processes(args: argparse.Namespace) -> AsyncIterator[Start]:
    with neighbours(Bursts(args.processes, args.busy, args.idle)) as processes:
        for number in range(args.starts):
            yield await start(args.checkpoint, args.seconds, processes)
            print(f"start {number + 1} of {args.starts}", file=sys.stderr)


async def benchmark(args: argparse.Namespace) -> str:
    alone = [await start(args.checkpoint, args.seconds) for _ in range(QUIET_STARTS)]
    reference = median(each.quiet for each in alone)
    found = [each async for each in starts_next_to_processes(args)]
    rows = [row(f"quiet {number}", each, reference) for number, each in enumerate(alone, 1)]
    rows += [row(f"busy {number}", each, reference) for number, each in enumerate(found, 1)]
    head = ["start", "streams", "batch", "images/s busy", "quiet", "share busy", "share quiet"]
    worst = min(min(each.beside, each.quiet) for each in found) / reference
    what = (
        f"{args.checkpoint.stem} on PyTorch; busy processes: {args.processes}, busy for "
        f"{args.busy:g} s and idle for {args.idle:g} s in turn. Shares are of {reference:.0f} "
        f"images/s, the median of {QUIET_STARTS} quiet starts. The lowest share is {worst:.2f}; "
        f"the target is {LEAST_SHARE:g}."
    )
    return "\n\n".join(("# Next to a busy process", provenance(), what, table(head, rows)))


def row(name: str, found: Start, reference: float) -> list[str]:
    return [
        name,
        str(found.streams),
        str(found.max_batch_size),
        f"{found.beside:.0f}",
        f"{found.quiet:.0f}",
        f"{found.beside / reference:.2f}",
        f"{found.quiet / reference:.2f}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.neighbour",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED_CHECKPOINT, metavar="FILE")
    parser.add_argument("--starts", type=int, default=20, help="starts next to a busy process [20]")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of each load [2]")
    parser.add_argument(
        "--processes", type=int, default=1, help="processes that are busy in bursts [1]"
    )
    parser.add_argument("--busy", type=float, default=0.1, metavar="SECONDS", help="[0.1]")
    parser.add_argument("--idle", type=float, default=0.1, metavar="SECONDS", help="[0.1]")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args(argv)
    text = asyncio.run(benchmark(args))
    print(text)
    if args.out:
        args.out.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
