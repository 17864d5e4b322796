"""The service compared with its peers: the same network, images and client.

    python -m benchmarks.compare --setup
    python -m benchmarks.compare --checkpoint FILE --images DIR --rounds 3 --out FILE.md

`--setup` creates a virtual environment for each peer, below runs/compare. All peers run the network
in eager PyTorch, 32 bits, behind the usual lines of Pillow; each in the way its documentation
shows, and with batching if it has it. A closed loop of callers sends the images as forms, and to
Triton in its own protocol.

In each round every server is started, checked against the service's classes for a few images,
warmed up, measured, left idle and stopped, so that none disturbs another. Every second round runs
in reverse order, so that drift of the machine affects all equally. Each server logs to a file as it
does by default. CPU time is that of all its processes.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.client import read_images
from benchmarks.compare.contenders import PEERS, SERVICE, Contender
from benchmarks.compare.environments import missing, set_up
from benchmarks.compare.measure import Arena, Sample
from benchmarks.compare.summary import medians_table, ratios_table, setup_list
from benchmarks.machine import provenance


async def compare(
    arena: Arena, contenders: Sequence[Contender], rounds: int
) -> dict[str, list[Sample]]:
    """Samples by contender, one per round."""
    results: dict[str, list[Sample]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders[:: (-1) ** number]:
            sample = await arena.measure(contender)
            results[contender.name].append(sample)
            print(f"round {number + 1}, {contender.name}: {sample}", file=sys.stderr)
    return results


def report(results: dict[str, list[Sample]], contenders: Sequence[Contender]) -> str:
    service = [contender.name for contender in contenders if contender.peer is None]
    peers = [contender.name for contender in contenders if contender.peer]
    ratios = [ratios_table(results, service, peers)] if peers else []
    texts = (provenance(), medians_table(results), *ratios, setup_list(results, contenders))
    return "\n\n".join(texts)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [contender.name for contender in PEERS]
    parser.add_argument("--setup", action="store_true", help="only create the environments")
    parser.add_argument("--checkpoint", type=Path, help="the checkpoint that all serve")
    parser.add_argument("--images", type=Path, help="directory of image files")
    parser.add_argument("--peers", nargs="*", choices=names, default=names, metavar="PEER")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each load [10]")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    args = parser.parse_args(argv)
    chosen = [contender for contender in PEERS if contender.name in args.peers]
    needed = list(dict.fromkeys(contender.peer for contender in chosen if contender.peer))
    if args.setup:
        for peer in needed:
            set_up(peer)
        return
    if not (args.checkpoint and args.images):
        parser.error("either --setup, or --checkpoint and --images, is required")
    if absent := missing(needed):
        parser.error(f"no environment for {', '.join(absent)}: run with --setup first")
    arena = Arena(args.checkpoint, read_images(args.images), args.seconds, args.callers)
    contenders = [*SERVICE, *chosen]
    text = report(asyncio.run(compare(arena, contenders, args.rounds)), contenders)
    print(text)
    if args.out:
        args.out.write_text(f"# The service compared with its peers\n\n{text}\n")


if __name__ == "__main__":
    main()
