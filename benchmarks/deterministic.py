"""What deterministic mode costs, next to the default, and what the default's answers depend on.

    python -m benchmarks.checkpoints dim128 dim128.safetensors
    python -m benchmarks.deterministic dim128.safetensors --images photos

Both servers of a pair run at the same time, and are loaded in turn: the best of all rounds counts.
For each backend of a CPU, the model alone then computes images of noise one by one and in batches,
and the logits are compared bit by bit.
"""

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.client import post_image, read_images
from benchmarks.load.generator import Load, apply_load, closed_loop
from benchmarks.machine import provenance
from benchmarks.report import table
from benchmarks.server import served_model, started_server
from model.backends.base import Backend, BackendOptions
from model.inference.classifier import load_classifier

CALLERS = 32
WARM_UP_SECONDS = 1.0
BACKENDS = ("openvino", "torch")
PRECISIONS = ("bfloat16", "float32")
DETERMINISTIC = "--deterministic"
BATCHES = (2, 4, 8)
HEAD = ("server", "images/s", "ratio", "alone, ms", "ratio", "largest batch", "streams")


@dataclass(slots=True)
class Contender:
    """A running server, and the best of its rounds."""

    url: str
    model: dict[str, Any]
    rate: float = 0.0
    latencies: list[float] = field(default_factory=list)

    async def run_round(self, requests: Sequence[bytes], seconds: float) -> None:
        loaded = await apply_load(self.url, requests, closed(seconds, CALLERS))
        self.rate = max(self.rate, loaded.throughput)
        alone = await apply_load(self.url, requests, closed(seconds / 2, 1))
        self.latencies.append(alone.percentile(50))

    @property
    def alone(self) -> float:
        """Seconds of a request when no other is sent: the median of the best round."""
        return min(self.latencies)


def closed(seconds: float, callers: int) -> Load:
    return Load(f"closed loop of {callers}", closed_loop(seconds), callers)


async def compare(args: argparse.Namespace, checkpoint: Path, *flags: str) -> list[list[str]]:
    """The rows of a default server and of a deterministic one."""
    requests = [post_image(image) for image in read_images(args.images)]
    async with AsyncExitStack() as stack:
        servers = []
        for mode in ((), (DETERMINISTIC,)):
            url = await stack.enter_async_context(started_server(checkpoint, *flags, *mode))
            servers.append(Contender(url, await served_model(url)))
        for server in servers:
            await apply_load(server.url, requests, closed(WARM_UP_SECONDS, CALLERS))
        for number in range(args.rounds):
            for server in servers[:: (-1) ** number]:
                await server.run_round(requests, args.seconds)
    default, deterministic = servers
    name = f"{checkpoint.stem}, {default.model['backend']} {default.model['precision']}"
    return [
        row(f"{name}, default", default, default),
        row(f"{name}, deterministic", deterministic, default),
    ]


def row(name: str, server: Contender, default: Contender) -> list[str]:
    return [
        name,
        f"{server.rate:.0f}",
        f"{server.rate / default.rate:.2f}",
        f"{1e3 * server.alone:.2f}",
        f"{server.alone / default.alone:.2f}",
        str(server.model["max_batch_size"]),
        str(server.model["streams"]),
    ]


def differences(checkpoint: Path, backend: str, precision: str, images: int) -> list[str]:
    """Of how many images the logits in a batch differ from those alone, by batch size."""
    options = BackendOptions(
        backend=backend, device="cpu", precision=precision, streams=1, cache_dir=None
    )
    served = load_classifier(checkpoint, options=options)
    served.backend.open()
    size = served.spec.preprocess.image_size
    found = [differing(served.backend, batch, images, size) for batch in BATCHES]
    cells = [f"{count} ({distance:.1g})" if count else "0" for count, distance in found]
    return [f"{checkpoint.stem}, {backend} {precision}", str(images), *cells]


def differing(backend: Backend, batch: int, images: int, size: int) -> tuple[int, float]:
    """The number of images, and the largest distance of a logit."""
    chance = np.random.default_rng(0)
    count, largest = 0, 0.0
    for _ in range(images // batch):
        contrast = chance.random((batch, 1, 1, 1))
        pixels = (chance.integers(0, 256, (batch, size, size, 3)) * contrast).astype(np.uint8)
        together = backend.logits(pixels)
        alone = np.concatenate([backend.logits(pixels[i : i + 1]) for i in range(batch)])
        count += int((together.view(np.uint32) != alone.view(np.uint32)).any(1).sum())
        largest = max(largest, float(np.abs(together - alone).max()))
    return count, largest


async def benchmark(args: argparse.Namespace) -> None:
    """Print each row once it is measured."""
    print(provenance(), end="\n\n")
    print(f"## Cost\n\nBest of {args.rounds} rounds in turn, {CALLERS} callers, then one.\n")
    print(table(HEAD, []), flush=True)
    for checkpoint in args.checkpoints:
        for backend in args.backends:
            flags = (f"--backend={backend}", "--device=cpu")
            show(await compare(args, checkpoint, *flags))
            if backend == "torch":
                show(await compare(args, checkpoint, *flags, "--precision=float32"))
    print("\n## Images whose logits in a batch differ from those alone, and by how much at most\n")
    print("Without deterministic mode; noise of any contrast.\n")
    print(table(("model", "images", *(f"batches of {size}" for size in BATCHES)), []))
    for checkpoint, backend, precision in product(args.checkpoints, BACKENDS, PRECISIONS):
        show([differences(checkpoint, backend, precision, args.compared)])


def show(rows: Sequence[Sequence[str]]) -> None:
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.deterministic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--images", type=Path, required=True, help="directory of image files")
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a load of a round [4]")
    parser.add_argument("--compared", type=int, default=400, help="images to compare [400]")
    asyncio.run(benchmark(parser.parse_args(argv)))


if __name__ == "__main__":
    main()
