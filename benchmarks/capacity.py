"""The capacity of a server, and its latencies below capacity, with photos and with tensors.

    python -m benchmarks.images photos
    python -m benchmarks.capacity FILE --images photos --closed 64 256 --share 0.8

Starts a server, runs closed loops, then an open loop at a share of the best of them. Each row of
the table is printed when its load has ended. Photos go to `/predict`; tensors, decoded and
normalised, to the Open Inference Protocol. `--server FLAGS`, repeated, measures one server after
another, each started with its flags: `--server "" --server "--streams=1"`.

The client shares the machine with the server. If its processes are always busy (the last column
approaches their number), use more `--clients`.
"""

import argparse
import asyncio
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.client import post_image, post_tensor, random_tensors, read_images
from benchmarks.clients import Plan, send_from
from benchmarks.load.generator import BROKEN, Outcome
from benchmarks.machine import provenance
from benchmarks.report import LATENCY_HEAD, latency_row, table
from benchmarks.server import Usage, read_usage, served_model, started_server

HEAD = (*LATENCY_HEAD, "server cores", "client cores")
KINDS = ("photos", "tensors")
TENSORS = 16
OUTSTANDING = 512  # in an open loop: more than the server admits, so that it must refuse
WARM_UP_CALLERS = 8


@dataclass(frozen=True, slots=True)
class Sender:
    """The client processes, the server that they load, and their requests."""

    processes: Executor
    count: int
    url: str
    requests: Sequence[bytes]

    async def send(self, plan: Plan) -> tuple[Outcome, Usage]:
        before = await read_usage(self.url)
        outcome = await send_from(self.processes, self.count, self.url, self.requests, plan)
        return outcome, await read_usage(self.url) - before


async def measure(args: argparse.Namespace, flags: str, processes: Executor) -> bool:
    """Measure one server with every kind of input; returns whether every request was answered."""
    begun, whole = time.monotonic(), True
    async with started_server(args.checkpoint, *shlex.split(flags)) as url:
        model = await served_model(url)
        print(f"\n{describe(args, flags, model)} READY after {time.monotonic() - begun:.1f} s.\n")
        print(table(HEAD, []), flush=True)
        for kind in args.inputs:
            sender = Sender(processes, args.clients, url, requests_of(kind, args, model))
            whole &= await send_all(kind, args, sender)
    return whole


def describe(args: argparse.Namespace, flags: str, model: dict[str, Any]) -> str:
    return (
        f"{args.checkpoint.stem}{f', `{flags}`' if flags else ''} on {model['backend']}, "
        f"{model['precision']}, {model['streams']} streams, "
        f"batches of at most {model['max_batch_size']}."
    )


def requests_of(kind: str, args: argparse.Namespace, model: dict[str, Any]) -> list[bytes]:
    if kind == "photos":
        return [post_image(image) for image in read_images(args.images)]
    size = model["image_size"]
    return [post_tensor(tensor, size) for tensor in random_tensors(TENSORS, size)]


async def send_all(kind: str, args: argparse.Namespace, sender: Sender) -> bool:
    """Run every load with one kind of input, a row for each; returns whether all were answered."""
    await sender.send(Plan(args.warm_up, WARM_UP_CALLERS))
    done: list[Outcome] = []
    whole = True
    for plan in plans(args, done):
        outcome, usage = await sender.send(plan)
        done.append(outcome)
        # an open loop may happen to send nothing
        answered = bool(outcome.latencies) or plan.rate is not None
        whole &= answered and not outcome.statuses[BROKEN]
        print(f"| {' | '.join(row(f'{kind}, {plan.name}', outcome, usage))} |", flush=True)
        for reason, count in outcome.failures.items():
            print(f"{kind}, {plan.name}: {count} x {reason}", file=sys.stderr)
    return whole


def plans(args: argparse.Namespace, done: Sequence[Outcome]) -> Iterator[Plan]:
    """One load after another; the last ones depend on the results of those ``done`` before."""
    for callers in args.closed:
        yield Plan(args.seconds, callers)
    capacity = max((outcome.throughput for outcome in done), default=0.0)
    for share in args.share if capacity else ():
        yield Plan(args.seconds, OUTSTANDING, share * capacity)


def row(name: str, outcome: Outcome, usage: Usage) -> list[str]:
    return [
        *latency_row(name, outcome, usage, digits=1),
        f"{usage.cpu_seconds / outcome.seconds:.2f}",
        f"{outcome.cpu_seconds / outcome.seconds:.2f}",
    ]


async def measure_all(args: argparse.Namespace) -> bool:
    print(provenance())
    with ProcessPoolExecutor(args.clients, mp_context=get_context("spawn")) as processes:
        return all([await measure(args, flags, processes) for flags in args.server or [""]])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="directory of image files")
    parser.add_argument("--inputs", nargs="*", default=KINDS, choices=KINDS, help="[both]")
    parser.add_argument("--closed", type=int, nargs="+", default=[64, 256], metavar="CALLERS")
    parser.add_argument("--share", type=float, nargs="*", default=[0.8], metavar="OF_CAPACITY")
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each load [10]")
    parser.add_argument("--warm-up", type=float, default=2.0, metavar="SECONDS", help="[2]")
    parser.add_argument("--clients", type=int, default=1, help="client processes [1]")
    parser.add_argument(
        "--server", action="append", metavar="FLAGS", help="flags of `xcit-serve serve`"
    )
    if not asyncio.run(measure_all(parser.parse_args(argv))):
        sys.exit("a load had no good answer, or unanswered requests; see above")


if __name__ == "__main__":
    main()
