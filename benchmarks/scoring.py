"""Offline scoring compared with its parts, and its memory over many images.

    python -m benchmarks.images runs/bench/photos --count 64
    python -m benchmarks.checkpoints dim128 runs/bench/dim128.safetensors
    python -m benchmarks.scoring parts runs/bench/photos --checkpoint runs/bench/dim128.safetensors
    python -m benchmarks.scoring memory --images 100000

``parts`` measures in turn, with all cores busy: reading and decoding alone, in as many threads as
the run has; the model alone, in as many threads and with the same batches; these two side by side;
and the run with both, including the output. Decoding and model share the cores, so the most that a
run can reach is not the lower of the two rates but 1 / (1 / decode + 1 / model), and less if they
displace each other's data from the caches, as side by side. Each figure is the best of all rounds.
CPU time shows what the run adds to its parts, on a machine that does other work, too.
"""

import argparse
import asyncio
import io
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from app.config.cpu_quota import usable_cores
from app.config.settings import Settings
from app.loading import ScoringClassifier, load_for_scoring
from app.scoring.prepare import prepare
from app.scoring.records import Record
from app.scoring.rows import schema
from app.scoring.run import RunOptions, scoring
from app.scoring.scorer import CHUNK, Scorer
from app.scoring.shards import Shards
from app.serving.threads import TURN_SECONDS
from benchmarks.machine import provenance
from benchmarks.report import table

TOP_K = 5
SAMPLES = 20  # of the memory, in the report


class Cost(NamedTuple):
    """Seconds per image: on the clock, and of all threads' CPU time."""

    wall: float
    cpu: float


@contextmanager
def measured(count: int, costs: list[Cost]) -> Iterator[None]:
    """Append the cost of a block that works on ``count`` images."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    costs.append(Cost(wall / count, cpu / count))


def decode_alone(
    classifier: ScoringClassifier, records: Sequence[Record], workers: int, costs: list[Cost]
) -> None:
    chunks = [records[i : i + CHUNK] for i in range(0, len(records), CHUNK)]
    work = partial(prepare, preprocess=classifier.preprocess, max_bytes=10**9)
    with ThreadPoolExecutor(workers) as pool, measured(len(records), costs):
        for _ in pool.map(work, chunks):
            pass


def model_alone(
    classifier: ScoringClassifier, record: Record, count: int, costs: list[Cost]
) -> None:
    """Each stream runs its share of full batches."""
    assert isinstance(record.image, Path)
    size, streams = classifier.info.max_batch_size, classifier.streams
    batch = [classifier.preprocess(record.image.read_bytes())] * size
    batches = max(1, count // size // streams)
    ready = threading.Barrier(streams + 1)

    def run() -> None:
        classifier.classifier.backend.open()
        classifier.predict(batch, TOP_K)
        ready.wait()
        for _ in range(batches):
            classifier.predict(batch, TOP_K)

    threads = [threading.Thread(target=run) for _ in range(streams)]
    for thread in threads:
        thread.start()
    with measured(batches * size * streams, costs):
        ready.wait()
        for thread in threads:
            thread.join()


def side_by_side(
    classifier: ScoringClassifier, records: Sequence[Record], workers: int, costs: list[Cost]
) -> None:
    """Decode and run the model at the same time, neither for the other."""
    decoding = threading.Thread(target=decode_alone, args=(classifier, records, workers, []))
    with measured(len(records), costs):
        decoding.start()
        model_alone(classifier, records[0], len(records), [])
        decoding.join()


async def score_all(
    classifier: ScoringClassifier,
    scorer: Scorer,
    records: Sequence[Record],
    out: Path,
    costs: list[Cost],
) -> None:
    columns = schema(classifier.info.num_classes, classifier.embedding_size, files=False)
    with measured(len(records), costs):
        rows = await scorer.score(iter(records), lambda rows: None)
        Shards(out, columns, "benchmark").write(0, rows)
    assert not any(row.failure for row in rows)


async def measure_parts(args: argparse.Namespace) -> str:
    settings = Settings(checkpoint=args.checkpoint)
    paths = cycle(sorted(args.photos.glob("*.jpg")))
    records = [Record(path.name, path) for path in islice(paths, args.images)]
    workers = usable_cores()
    load = partial(load_for_scoring, settings, workers, embeds=args.embeddings)
    options = RunOptions(top_k=lambda _: TOP_K, embeddings=args.embeddings, shard_size=args.images)
    decode: list[Cost] = []
    model: list[Cost] = []
    together: list[Cost] = []
    both: list[Cost] = []
    with tempfile.TemporaryDirectory() as out:
        async with scoring(load, options, settings) as (loaded, scorer):
            assert isinstance(loaded, ScoringClassifier)
            for _ in range(args.rounds):
                await asyncio.to_thread(decode_alone, loaded, records, workers, decode)
                await asyncio.to_thread(model_alone, loaded, records[0], args.images, model)
                await asyncio.to_thread(side_by_side, loaded, records, workers, together)
                await score_all(loaded, scorer, records, Path(out), both)
            info = loaded.info
    title = (
        f"{info.name} on {info.backend}, {info.precision}, {info.streams} streams, batches of "
        f"{info.max_batch_size}; {workers} decoding threads; {args.images} images per round."
    )
    rounds = zip(decode, model, both, strict=True)
    ratios = ", ".join(f"{(d.wall + m.wall) / run.wall:.2f}" for d, m, run in rounds)
    costs = costs_table(decode, model, together, both)
    return f"{title}\n\n{costs}\n\nRun / bound, by round: {ratios}."


def costs_table(
    decode: Sequence[Cost], model: Sequence[Cost], together: Sequence[Cost], both: Sequence[Cost]
) -> str:
    """The best rate and CPU time of each part, and of the run compared with them."""
    parts = {
        "decode alone": best(decode),
        "model alone": best(model),
        "bound: their sum": Cost(*map(sum, zip(best(decode), best(model), strict=True))),
        "both, side by side": best(together),
        "run": best(both),
    }
    run = parts["run"]
    head = ("best of all rounds", "images/s", "run / this", "CPU ms per image", "this / run")
    body = [
        (
            name,
            f"{1 / cost.wall:.0f}",
            f"{cost.wall / run.wall:.2f}",
            f"{1e3 * cost.cpu:.2f}",
            f"{cost.cpu / run.cpu:.2f}",
        )
        for name, cost in parts.items()
    ]
    return table(head, body)


def best(costs: Sequence[Cost]) -> Cost:
    return Cost(*map(min, zip(*costs, strict=True)))


def small_images(count: int) -> Iterator[bytes]:
    """JPEGs of 32 x 32 pixels; 256 different ones, over and over."""
    chance = np.random.default_rng(0)
    different = []
    for _ in range(256):
        buffer = io.BytesIO()
        pixels = chance.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(buffer, "JPEG")
        different.append(buffer.getvalue())
    return islice(cycle(different), count)


def measure_memory(args: argparse.Namespace) -> str:
    """The resident memory of the command over a tar of many images."""
    with tempfile.TemporaryDirectory() as directory:
        source, out = Path(directory, "small.tar"), Path(directory, "out")
        with tarfile.open(source, "w") as tar:
            for number, data in enumerate(small_images(args.images)):
                member = tarfile.TarInfo(f"{number:07}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
                tar.members.clear()  # type: ignore[attr-defined]
        command = ["-m", "app", "score", str(source), "--out", str(out), "--shard-size", "5000"]
        samples = follow(subprocess.Popen([sys.executable, *command]), out)
    shown = samples[:: max(1, len(samples) // SAMPLES)]
    rows = [(f"{images:,}", f"{memory / 2**20:.0f}") for images, memory in shown]
    later = [memory for images, memory in samples if images >= args.images / 10]
    half = len(later) // 2
    growth = (fmean(later[half:]) - fmean(later[:half])) / 2**20
    return (
        f"{args.images:,} images of 32 x 32 pixels in a tar.\n\n"
        f"{table(('images in complete shards', 'resident MiB'), rows)}\n\n"
        f"After the first tenth, the second half takes {growth:+.1f} MiB more than the first."
    )


def follow(process: "subprocess.Popen[bytes]", out: Path) -> list[tuple[int, int]]:
    """Images in shards, and resident bytes, each second from the first shard to the end."""
    samples: list[tuple[int, int]] = []
    while process.poll() is None:
        shards = len([*out.glob("part-*")])
        status: Any = Path(f"/proc/{process.pid}/status").read_text()
        resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
        if shards and resident:
            samples.append((5000 * shards, 1024 * int(resident[0])))
        time.sleep(1)
    assert process.returncode == 0
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="what", required=True)
    parts = commands.add_parser("parts")
    parts.add_argument("photos", type=Path)
    parts.add_argument("--checkpoint")
    parts.add_argument("--embeddings", action="store_true")
    parts.add_argument("--images", type=int, default=1024)
    parts.add_argument("--rounds", type=int, default=5)
    memory = commands.add_parser("memory")
    memory.add_argument("--images", type=int, default=100_000)
    args = parser.parse_args()
    sys.setswitchinterval(TURN_SECONDS)  # as the command does
    found = asyncio.run(measure_parts(args)) if args.what == "parts" else measure_memory(args)
    print(f"{provenance()}\n\n{found}")


if __name__ == "__main__":
    main()
