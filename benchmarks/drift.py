"""Changed traffic, and the alerts that it raises in a real Prometheus.

    python -m benchmarks.drift DATA

DATA is an image folder, or a tar of one, with a folder of each class. Its test images are sent
unchanged, dark, blurred, inverted, and those of three classes alone. If the checkpoint has no
reference, one is made from half of the test images, and the other half is sent. The rules are those
of ``deploy/prometheus``, over seconds instead of an hour. Fails unless each change raises its alert
and unchanged images raise none.

    python -m benchmarks.drift --cost

measures the CPU time that the metrics of predictions take per image.
"""

import argparse
import asyncio
import io
import json
import random
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from app.observability.predictions import PredictionCollector
from app.serving.classifier import Figures
from benchmarks.client import post_image
from benchmarks.load.connection import Connection
from benchmarks.machine import provenance
from benchmarks.prometheus import INTERVAL, WAIT, Prometheus, running_prometheus
from benchmarks.report import table
from benchmarks.server import started_server
from model.checkpoint import BUNDLED_CHECKPOINT, read_checkpoint
from model.drift import figures_of, profile
from model.evaluation.dataset import list_split, read_images

CALLERS = 8
DISTRIBUTIONS = ("score", "entropy", "class", "brightness", "pixels")
SETTLING = 3 * INTERVAL + WAIT  # seconds until the last images are scraped and alerts fire
ALIKE, DIFFERENT = 0.1, 0.25
Photos = Sequence[tuple[str, bytes]]  # the label and the file of each


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the traffic, and the alert that must fire; ``None`` if none may."""

    name: str
    apply: Callable[[Photos], Photos]
    alert: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """The distances and the alerts after some images."""

    images: int
    distances: Mapping[str, float]
    firing: set[str]


def redrawn(change: Callable[[Image.Image], Image.Image]) -> Callable[[Photos], Photos]:
    """Change the pixels of each photo."""

    def redraw(data: bytes) -> bytes:
        buffer = io.BytesIO()
        change(Image.open(io.BytesIO(data)).convert("RGB")).save(buffer, "PNG")
        return buffer.getvalue()

    return lambda photos: [(label, redraw(data)) for label, data in photos]


def of_three_classes(photos: Photos) -> Photos:
    """Those of the first three classes, as often as it takes for the same number."""
    chosen = sorted({label for label, _ in photos})[:3]
    few = [photo for photo in photos if photo[0] in chosen]
    return (few * (len(photos) // len(few) + 1))[: len(photos)]


CHANGES = (
    Change("unchanged", lambda photos: photos, None),
    Change(
        "a third as bright", redrawn(lambda p: p.point(lambda value: value // 3)), "XcitImageDrift"
    ),
    Change(
        "blurred, radius 2",
        redrawn(lambda photo: photo.filter(ImageFilter.GaussianBlur(2))),
        "XcitScoreDrift",
    ),
    Change("inverted", redrawn(ImageOps.invert), "XcitScoreDrift"),
    Change("three of the classes", of_three_classes, "XcitClassDrift"),
)


def read_photos(data: Path) -> Photos:
    """The test images, in a random order that is always the same."""
    paths = list_split(data, "test")
    random.Random(0).shuffle(paths)
    order = {path: place for place, path in enumerate(paths)}
    found = sorted(read_images(data, paths), key=lambda each: order[each[0]])
    return [(path.parent.name, content) for path, content in found]


def make_reference(checkpoint: Path, photos: Photos, directory: Path) -> Path:
    """A copy of a checkpoint with a reference of some photos, made by ``xcit-serve evaluate``."""
    target = directory / "referenced.safetensors"
    for number, (label, data) in enumerate(photos):
        path = directory / "reference" / PurePosixPath(label) / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    command = [sys.executable, "-m", "app", "evaluate", str(checkpoint)]
    command += [str(directory / "reference"), "--reference", f"--out={target}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


async def send(url: str, photos: Photos) -> None:
    """Send each photo once, over a few connections."""
    waiting = iter(photos)

    async def call() -> None:
        with closing(Connection(url)) as connection:
            for _, data in waiting:
                answer = await connection.send(post_image(data))
                if answer.status != 200:
                    raise RuntimeError(f"status {answer.status}: {answer.body!r}")

    await asyncio.gather(*(call() for _ in range(CALLERS)))


async def observe(url: str, prometheus: Prometheus, photos: Photos, window: int) -> Seen:
    """Send photos, and read the distances and alerts over all photos in the window."""
    begun = time.monotonic()
    await send(url, photos)
    await asyncio.sleep(SETTLING)
    if time.monotonic() - begun > window:
        raise RuntimeError(f"the photos took longer than the window of {window} s")
    distances = prometheus.by_label("checkpoint:xcit_psi:1h", "distribution")
    return Seen(len(photos), distances, prometheus.firing())


async def measure(
    checkpoint: Path, photos: Photos, changes: Sequence[Change], window: int, directory: Path
) -> list[Seen]:
    """Observe each change, one after the other, on one server."""
    found: list[Seen] = []
    async with started_server(checkpoint) as url:
        with running_prometheus(directory, url.removeprefix("http://"), window) as prometheus:
            for change in changes:
                # Until the photos before are forgotten; an increase needs a sample before it.
                await asyncio.sleep(window if found else 2 * INTERVAL)
                found.append(await observe(url, prometheus, change.apply(photos), window))
    return found


def complaints(change: Change, seen: Seen) -> list[str]:
    """The ways in which the alerts are wrong."""
    found = []
    if change.alert is None:
        if seen.firing:
            found.append(f"{change.name}: {', '.join(sorted(seen.firing))} fired")
        high = {name: value for name, value in seen.distances.items() if value >= ALIKE}
        if high or not seen.distances:
            found.append(f"{change.name}: distances are {dict(seen.distances)}")
    elif change.alert not in seen.firing:
        found.append(f"{change.name}: {change.alert} did not fire: {dict(seen.distances)}")
    return found


def report(changes: Sequence[Change], found: Sequence[Seen]) -> str:
    rows = [
        (
            change.name,
            str(seen.images),
            *(f"{seen.distances.get(name, float('nan')):.3f}" for name in DISTRIBUTIONS),
            ", ".join(sorted(seen.firing)) or "none",
        )
        for change, seen in zip(changes, found, strict=True)
    ]
    return table(("images", "number", *DISTRIBUTIONS, "alerts"), rows)


def cost(side: int, classes: int, trials: int = 2000) -> dict[str, float]:
    """CPU seconds per image of the metrics of predictions, the best of several trials."""
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (side, side, 3), np.uint8)
    logits = chance.standard_normal(classes).astype(np.float32)
    sha256 = "0" * 64
    temperatures = (1.6, ((2.7, 0.6), (4.0, 0.2)))  # a calibrated checkpoint
    collector = PredictionCollector()
    names = [f"class_{i}" for i in range(classes)]
    collector.show_model(sha256, profile(names, None))

    def figures() -> Figures:
        return Figures(*figures_of(pixels, 1024, logits, temperatures))

    found = [(sha256, figures())]

    def through_json() -> None:
        collector.count(json.loads(json.dumps(found)))

    def best(work: Callable[[], object]) -> float:
        return min(timeit.repeat(work, timer=time.process_time, number=trials, repeat=7)) / trials

    return {
        "figures": best(figures),
        "counting": best(lambda: collector.count(found)),
        "counting in another process": best(through_json),
    }


def cost_report() -> str:
    rows = []
    for side, classes in ((32, 10), (224, 1000)):
        for name, seconds in cost(side, classes).items():
            rows.append((f"{side} pixels, {classes} classes: {name}", f"{1e6 * seconds:.1f}"))
    return table(("per image", "CPU µs"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, nargs="?", help="image folder, or a tar of one")
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED_CHECKPOINT)
    parser.add_argument("--count", type=int, default=2000, help="images of each kind [2000]")
    parser.add_argument("--window", type=int, default=30, help="seconds instead of an hour [30]")
    parser.add_argument("--cost", action="store_true", help="measure the cost of the metrics alone")
    args = parser.parse_args(argv)
    if args.cost:
        print("# The cost of the metrics of predictions", provenance(), cost_report(), sep="\n\n")
        return
    if args.data is None:
        parser.error("DATA is needed")
    photos, checkpoint = read_photos(args.data), args.checkpoint
    with tempfile.TemporaryDirectory() as name:
        source = "the one in the checkpoint"
        if not read_checkpoint(checkpoint).spec.reference:
            source = "the other half of the test images"
            half = len(photos) // 2
            checkpoint = make_reference(checkpoint, photos[half:], Path(name))
            photos = photos[:half]
        work = measure(checkpoint, photos[: args.count], CHANGES, args.window, Path(name))
        found = asyncio.run(work)
    text = f"Reference: {source}. Window: {args.window} s instead of an hour."
    print("# Drift, seen by Prometheus", provenance(), text, report(CHANGES, found), sep="\n\n")
    wrong = [line for each in map(complaints, CHANGES, found) for line in each]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
