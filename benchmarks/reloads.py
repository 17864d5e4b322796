"""Reloads under load: their duration, lost requests, and memory that is not released.

    python -m benchmarks.images photos
    python -m benchmarks.reloads FILE --images photos --times 5

Fails if a request was not answered with 200, or if the device's memory after the last reload
differs by over 5 % from that after the first. `nvidia-smi` reports the memory of all processes on
the device, so nothing else should run there. The resident memory of the process is only shown.
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import post_image, read_images
from benchmarks.load.connection import Connection, encode_post
from benchmarks.load.generator import Load, Outcome, apply_load
from benchmarks.machine import provenance
from benchmarks.report import table
from benchmarks.server import read_metrics, served_model, started_server

TOKEN = "reload"
SETTLING_SECONDS = 1.0  # for the old model to be released
TOLERANCE = 0.05
MIB = 2**20
HEAD = ("", "seconds", "device MiB", "resident MiB", "answers so far")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in use on the device, if they can be read, and resident in the process."""

    device: int | None
    resident: float

    def cells(self) -> list[str]:
        device = "-" if self.device is None else f"{self.device / MIB:.0f}"
        return [device, f"{self.resident / MIB:.0f}"]


async def read_memory(url: str) -> Memory:
    resident = (await read_metrics(url))["process_resident_memory_bytes"]
    return Memory(await asyncio.to_thread(device_memory), resident)


def device_memory() -> int | None:
    """Bytes in use on all GPUs, by all processes; ``None`` if ``nvidia-smi`` cannot report them."""
    if not (program := shutil.which("nvidia-smi")):
        return None
    query = [program, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    figures = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    return MIB * sum(map(int, figures)) if figures and all(map(str.isdecimal, figures)) else None


@asynccontextmanager
async def under_load(url: str, requests: Sequence[bytes], callers: int) -> AsyncIterator[Outcome]:
    """Run a closed loop until the block ends; yields its outcome so far."""
    ended, outcome = asyncio.Event(), Outcome()

    def schedule() -> Iterator[float]:
        while not ended.is_set():
            yield time.monotonic()

    load = asyncio.create_task(
        apply_load(url, requests, Load("closed loop", schedule(), callers), outcome)
    )
    try:
        yield outcome
    finally:
        ended.set()
        await load


async def reload(url: str) -> float:
    """Reload the model; returns the seconds until the old one is released."""
    begun = time.monotonic()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with closing(Connection(url)) as connection:
        answer = await connection.send(encode_post(url, "/admin/reload", headers, b""))
    if answer.status != 200:
        raise RuntimeError(f"the reload was answered with {answer.status}: {answer.body.decode()}")
    return time.monotonic() - begun


async def measure(args: argparse.Namespace, token_file: Path) -> tuple[list[Memory], Outcome]:
    """Memory before the reloads and after each, and the outcome of the load; prints rows."""
    requests = [post_image(image) for image in read_images(args.images)]
    found: list[Memory] = []
    async with started_server(args.checkpoint, f"--admin-token-file={token_file}") as url:
        model = await served_model(url)
        print(f"{args.checkpoint.stem} on {model['backend']}, {args.callers} callers.\n")
        print(table(HEAD, []), flush=True)

        async def note(name: str, seconds: str) -> None:
            await asyncio.sleep(args.settle)
            found.append(await read_memory(url))
            answers = f"{outcome.statuses.total():,}"
            print(f"| {' | '.join([name, seconds, *found[-1].cells(), answers])} |", flush=True)

        async with under_load(url, requests, args.callers) as outcome:
            await note("before", "")
            for number in range(1, args.times + 1):
                await note(f"reload {number}", f"{await reload(url):.1f}")
    return found, outcome


def growth(found: Sequence[Memory]) -> float | None:
    """Relative change of the device's memory from the first reload to the last."""
    first, last = found[1].device, found[-1].device
    return last / first - 1 if first and last is not None else None


def complaints(found: Sequence[Memory], outcome: Outcome, *, on_device: bool) -> list[str]:
    """A line for each problem: lost requests, memory that was not released."""
    wrong = []
    if lost := outcome.statuses.total() - outcome.statuses[200]:
        reasons = [f"{count} x {reason}" for reason, count in outcome.failures.items()]
        statuses = [f"{n} x {status}" for status, n in outcome.statuses.items() if status >= 300]
        wrong.append(f"{lost} requests were not answered with 200: {', '.join(reasons + statuses)}")
    grown = growth(found)
    if on_device and grown is None:
        wrong.append("the device's memory could not be read")
    elif grown is not None and abs(grown) > TOLERANCE:
        wrong.append(
            f"memory of the device changed by {grown:+.1%} from the first reload to the last"
        )
    return wrong


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reloads",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="directory of image files")
    parser.add_argument("--times", type=int, default=5, help="reloads [5]")
    parser.add_argument("--callers", type=int, default=16, help="requests in flight [16]")
    parser.add_argument("--settle", type=float, default=SETTLING_SECONDS, metavar="SECONDS")
    parser.add_argument("--on-device", action="store_true", help="fail unless its memory is read")
    args = parser.parse_args(argv)
    print(provenance(), "", sep="\n")
    with tempfile.TemporaryDirectory() as directory:
        token_file = Path(directory, "token")
        token_file.write_text(TOKEN)
        token_file.chmod(0o600)
        found, outcome = asyncio.run(measure(args, token_file))
    wrong = complaints(found, outcome, on_device=args.on_device)
    good = f"{outcome.statuses[200]:,} requests were answered with 200."
    grown = growth(found)
    change = "" if grown is None else f" Device memory, first to last reload: {grown:+.1%}."
    print("", good + change, *(f"**{line}**" for line in wrong), sep="\n")
    if wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
