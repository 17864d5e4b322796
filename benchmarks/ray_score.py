"""Offline scoring on a Ray cluster of this machine next to the same run without Ray.

    python -m benchmarks.ray_score --checkpoint FILE --images DIR

The images are listed `--repeat` times. Both ways run in turn, `--rounds` times; the best one
counts. Images per second are measured from the first rows to the last; before that, the model
loads and the processes of the cluster start, whose seconds are given too. Prints Markdown.
"""

import argparse
import asyncio
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from app.config.cpu_quota import usable_cores
from app.config.settings import Settings
from app.loading import load_for_scoring
from app.scoring.output import open_output
from app.scoring.rows import Row
from app.scoring.run import RunOptions, run
from app.scoring.sources import Source, SourceOptions, open_source
from benchmarks.machine import provenance
from benchmarks.ray_serve import started_ray

SHARD_SIZE = 1000
LOAD = partial(load_for_scoring, embeds=False)
OPTIONS = RunOptions(top_k=lambda classes: min(5, classes), embeddings=False, shard_size=SHARD_SIZE)


@dataclass
class Times:
    """When a run began, and when how many of its rows were done."""

    begun: float = field(default_factory=time.monotonic)
    done: list[tuple[float, int]] = field(default_factory=list)

    def start(self, source: Source, done: int) -> None: ...

    def add(self, rows: Sequence[Row]) -> None:
        self.done.append((time.monotonic(), len(rows)))

    @property
    def images_per_second(self) -> float:
        (first, _), *others = self.done
        return sum(count for _, count in others) / (others[-1][0] - first)

    @property
    def start_seconds(self) -> float:
        return self.done[0][0] - self.begun


def score(words: Sequence[str], settings: Settings, *, on_ray: bool) -> Times:
    with tempfile.TemporaryDirectory() as directory, open_output(Path(directory)) as output:
        source = open_source(words, SourceOptions(max_bytes=settings.max_body_bytes))
        times = Times()
        if on_ray:
            from app.scoring.cluster import run_on_cluster

            run_on_cluster("auto", LOAD, source, output, OPTIONS, settings, times)
        else:
            load = partial(LOAD, settings, usable_cores())
            asyncio.run(run(load, source, output, OPTIONS, settings, times))
        return times


@contextmanager
def listed(images: Path, repeat: int) -> Iterator[str]:
    """A text file that lists the images several times."""
    paths = sorted(path.resolve() for path in images.iterdir())
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "images.txt"
        path.write_text("".join(f"{path}\n" for path in paths * repeat))
        yield str(path)


def benchmark(args: argparse.Namespace) -> None:
    settings = Settings(checkpoint=str(args.checkpoint), max_batch_size=args.batch)
    ways: dict[str, Callable[[], Times]]
    with listed(args.images, args.repeat) as path:
        ways = {
            "one machine": lambda: score([path], settings, on_ray=False),
            "Ray": lambda: score([path], settings, on_ray=True),
        }
        found: dict[str, list[Times]] = {way: [] for way in ways}
        with started_ray(args.cpus):
            for way, measure in list(ways.items()) * args.rounds:
                found[way].append(measure())
    best = {
        way: max(each, key=lambda times: times.images_per_second) for way, each in found.items()
    }
    alone = best["one machine"].images_per_second
    lines = [
        "| | images/s | of one machine | seconds until the first rows |",
        "|---|---:|---:|---:|",
    ]
    for way, times in best.items():
        speed = times.images_per_second
        lines.append(f"| {way} | {speed:.1f} | {speed / alone:.2f} | {times.start_seconds:.1f} |")
    print(provenance(), "\n".join(lines), sep="\n\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ray_score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="directory of image files")
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8, help="maximum batch size [8]")
    parser.add_argument("--cpus", type=int, default=2, help="cores of the cluster [2]")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")
        benchmark(args)


if __name__ == "__main__":
    main()
