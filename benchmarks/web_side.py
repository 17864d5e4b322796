"""CPU time per request of everything but the model, with a classifier that does nothing.

    python -m benchmarks.web_side --against ../other-checkout

With ``--against``, another checkout is measured in turn with this one; it needs these
benchmarks too.
"""

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from app.serving.classifier import Classification, Figures
from benchmarks.client import post_image
from benchmarks.load.generator import Load, apply_load, closed_loop
from benchmarks.machine import provenance
from benchmarks.ports import free_port
from benchmarks.report import table
from benchmarks.server import Server, read_metrics, started

ROOT = Path(__file__).parents[1]
CALLERS = 16
SERVE = ("-m", "benchmarks.web_side", "--serve")


@dataclass(frozen=True, slots=True)
class Row:
    class_id: int = 0
    label: str = "nothing"
    score: float = 1.0
    synset: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    predictions: Sequence[Row] = (Row(),)
    logits: bytes = b""
    probabilities: bytes = b""
    embedding: bytes | None = None


class Nothing:
    """A classifier that answers every image with the same class."""

    streams = 1

    def __init__(self) -> None:
        from app.serving.classifier import ModelInfo
        from model.drift import profile

        self.profile = profile(["nothing"], None)

        self.info = ModelInfo(
            name="nothing",
            version="1",
            family="none",
            checkpoint_sha256="",
            device="cpu",
            backend="none",
            backend_reason="",
            precision="fp32",
            streams=1,
            max_batch_size=CALLERS,
            num_classes=1,
            image_size=1,
            heads=1,
        )

    def open(self) -> None: ...

    def warm_up(self) -> None: ...

    def self_test(self) -> None: ...

    def time_batches(self) -> dict[int, float]:
        return {}

    def choose_batch_size(self, timings: Sequence[Mapping[int, float]]) -> None: ...

    def preprocess(self, image: object) -> bytes:
        return b""

    def prepare_explanation(self, data: bytes) -> bytes:
        return data

    def explain(self, item: bytes, head: int | None) -> bytes:
        return item

    def padded_size(self, count: int) -> int:
        return count

    def predict(self, items: Sequence[bytes], top_k: int) -> list[Answer]:
        return [Answer() for _ in items]

    def figures(self, item: bytes, found: Classification) -> Figures:
        return Figures(0, 1.0, 0.0, 0.5, 1)


def serve() -> None:
    from app.cli.serve import serve_and_exit
    from app.config.settings import read_settings

    serve_and_exit(read_settings(), Nothing)


def service(checkout: Path) -> AbstractAsyncContextManager[Server]:
    """A server with the code of a checkout."""
    port = free_port()
    variables = {"XCIT_PORT": str(port), "PYTHONPATH": str(checkout)}
    return started(SERVE, port, variables, cwd=checkout)


async def cpu_per_request(url: str, seconds: float) -> float:
    """CPU seconds of the server per request of a closed loop."""
    key = "process_cpu_seconds_total"
    before = (await read_metrics(url))[key]
    load = Load("closed", closed_loop(seconds), CALLERS)
    outcome = await apply_load(url, [post_image(b"image")], load)
    return ((await read_metrics(url))[key] - before) / len(outcome.latencies)


async def measure(checkouts: Sequence[Path], rounds: int, seconds: float) -> list[list[float]]:
    """Costs of each checkout, measured in turn on servers that run at the same time."""
    costs: list[list[float]] = [[] for _ in checkouts]
    for _ in range(rounds):
        async with service(checkouts[0]) as first, service(checkouts[-1]) as last:
            urls = [first.url, last.url][: len(checkouts)]
            for url in urls:
                await cpu_per_request(url, seconds / 4)  # warm-up
            for turn in range(4):
                order = [*enumerate(urls)]
                for place, url in reversed(order) if turn % 2 else order:
                    costs[place].append(await cpu_per_request(url, seconds))
    return costs


def report(checkouts: Sequence[Path], costs: Sequence[Sequence[float]]) -> str:
    rows = [
        (
            checkout.name,
            f"{1e3 * median(each):.3f}",
            f"{1e3 * min(each):.3f}",
            f"{median(a / b for a, b in zip(each, costs[-1], strict=True)):.3f}",
        )
        for checkout, each in zip(checkouts, costs, strict=True)
    ]
    head = ("checkout", "median ms of CPU per request", "lowest", "ratio to the last, in pairs")
    return "\n\n".join(("# The web side alone", provenance(), table(head, rows)))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.web_side",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--against", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each server [3]")
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of each load [4]")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.serve:
        serve()
    checkouts = [ROOT, args.against.resolve()] if args.against else [ROOT]
    print(report(checkouts, asyncio.run(measure(checkouts, args.rounds, args.seconds))))


if __name__ == "__main__":
    main()
