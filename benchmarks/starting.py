"""Seconds from the start of the process until the service is READY.

    python -m benchmarks.starting FILE... --rounds 5 --out benchmarks/results/starting.md

With compiled models kept by a start before, and with none, in turn; files are in the page cache.
Beside it what the imports alone take, in a process that does nothing else.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.machine import provenance
from benchmarks.report import table
from benchmarks.server import started_server

IMPORTS = "import app.cli, app.server, model.classifier, model.backends.openvino_graph"
TARGET = 4.0  # seconds, of the bundled checkpoint on two cores


async def seconds_to_ready(checkpoint: Path, cache: str) -> float:
    begun = time.perf_counter()
    async with started_server(checkpoint, f"--cache-dir={cache}"):
        return time.perf_counter() - begun


def seconds_of_imports() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - begun


def measure(checkpoint: Path, rounds: int) -> list[str]:
    """A row of the table: medians, and the least and the most."""
    kept, anew, imports = list[float](), list[float](), list[float]()
    with tempfile.TemporaryDirectory() as cache:
        asyncio.run(seconds_to_ready(checkpoint, cache))
        for _ in range(rounds):
            kept.append(asyncio.run(seconds_to_ready(checkpoint, cache)))
            anew.append(asyncio.run(seconds_to_ready(checkpoint, "")))
            imports.append(seconds_of_imports())
    columns = (
        f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
        for found in (kept, anew, imports)
    )
    return [checkpoint.stem, *columns]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.starting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="file for the table, beside stdout")
    args = parser.parse_args(argv)
    head = ["seconds to READY", "compiled models kept", "none kept", "imports alone"]
    rows = [measure(checkpoint, args.rounds) for checkpoint in args.checkpoints]
    told = f"Target, bundled checkpoint with compiled models kept: {TARGET:g}."
    text = "\n\n".join(("# Starting", provenance(), told, table(head, rows)))
    print(text)
    if args.out:
        args.out.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
