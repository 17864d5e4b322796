"""Seconds from the start of the process until the service is READY.

    python -m benchmarks.starting FILE... --rounds 5 --out benchmarks/results/starting.md

The first start has an empty directory for compiled models, and an unknown page cache. Then starts
with and without compiled models alternate, with files in the page cache. For comparison, the
imports are timed in a process that does nothing else.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks.machine import provenance
from benchmarks.report import table
from benchmarks.server import started_server

TARGET = 4.0  # seconds, for the bundled checkpoint on two cores


async def seconds_to_ready(checkpoint: Path, cache: str) -> float:
    begun = time.perf_counter()
    async with started_server(checkpoint, f"--cache-dir={cache}"):
        seconds = time.perf_counter() - begun
        kept = "a directory for compiled models" if cache else "none"
        print(f"{checkpoint.stem}: READY after {seconds:.2f} s, with {kept}", file=sys.stderr)
        return seconds


def seconds_of_imports() -> float:
    modules = ["app.cli.main", "app.server.server", "model.inference.classifier"]
    if find_spec("openvino"):
        modules.append("model.backends.openvino_graph")
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {', '.join(modules)}"], check=True)
    return time.perf_counter() - begun


def measure(checkpoint: Path, rounds: int, *, kept_only: bool) -> list[str]:
    """A row of the table: the first start, then medians with minimum and maximum."""
    kept, anew, imports = list[float](), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as cache:
        first = asyncio.run(seconds_to_ready(checkpoint, cache))
        for _ in range(rounds):
            kept.append(asyncio.run(seconds_to_ready(checkpoint, cache)))
            if not kept_only:
                anew.append(asyncio.run(seconds_to_ready(checkpoint, "")))
            imports.append(seconds_of_imports())
    return [checkpoint.stem, f"{first:.2f}", *map(spread, (kept, anew, imports))]


def spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.starting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--kept-only", action="store_true", help="skip starts without compiled models"
    )
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    args = parser.parse_args(argv)
    head = ["seconds to READY", "first start", "compiled models kept", "none kept", "imports alone"]
    rows = [measure(each, args.rounds, kept_only=args.kept_only) for each in args.checkpoints]
    target = f"Target, bundled checkpoint with compiled models kept: {TARGET:g}."
    text = "\n\n".join(("# Starting", provenance(), target, table(head, rows)))
    print(text)
    if args.out:
        args.out.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
