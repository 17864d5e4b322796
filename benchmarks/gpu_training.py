"""Train the bundled model on a GPU within a time limit, and measure it.

    python -m benchmarks.gpu_training cifar10.tar.xz --out runs/long --seconds 270

The limit covers everything: decoding, compiling, training and evaluation. A few epochs are run
first, to compile the step and to time an epoch. The number of epochs that fit follows from that; a
run must know it from the start, because its rates fall to zero at its end. All flags of
``xcit-serve train`` work here too; with ``--epochs`` the number is not chosen.

The output folder gets the checkpoint, metrics.csv, curves.png and report.json. The exit code is 1
if no epoch could be trained; ``--plain-steps``, which does not compile or record steps, may then
work.
"""

import argparse
import faulthandler
import json
import platform
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from model.backends.base import BackendOptions
from model.evaluation.dataset import Dataset
from model.evaluation.evaluate import evaluate
from model.inference.classifier import load_classifier
from model.spec import PreprocessSpec
from training.command import add_run, choose_recipe, given_choices, load_sets, threads_for
from training.recipe import Recipe, recipe_for
from training.trainer import Trainer

HOLDOUT = 2500
PROBE_EPOCHS = 5  # the first compiles; files are written after the first and the last
PROBE_SHARE = 0.5  # of the limit; a first attempt that takes longer is considered stuck
EVALUATION_SECONDS = 25.0
MARGIN = 0.93  # of the time left, since epochs may take longer than in the probe
LEAST_EPOCHS = 2
STDERR = 2  # file descriptor


class Limits:
    """The time limit, counted from creation, and the maximum number of epochs."""

    def __init__(
        self, *, seconds: float, most_epochs: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most_epochs, self._clock = most_epochs, clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - self._clock()


def decompress(data: Path, folder: Path) -> Path:
    """A decompressed copy of an archive, which is read several times.

    An archive is faster than a folder with tens of thousands of small files.
    """
    if data.is_dir():
        return data
    plain = folder / "images.tar"
    with tarfile.open(data) as archive, plain.open("wb") as file:
        stream: Any = archive.fileobj  # decompresses when read
        stream.seek(0)
        shutil.copyfileobj(stream, file)
    return plain


def seconds_per_epoch(
    recipe: Recipe, training: Dataset, measured: Dataset, *, plain_steps: bool
) -> float:
    """Train some epochs and discard them. The next run reuses the compiled code."""
    short = replace(recipe, epochs=PROBE_EPOCHS, decay_epochs=PROBE_EPOCHS - 1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(short, Path(folder), training, measured, plain_steps=plain_steps)
        times = [time.monotonic(), *(time.monotonic() for _ in trainer.epochs())]
    seconds = [end - begun for begun, end in pairwise(times)]
    log(f"seconds of the first epochs: {', '.join(f'{each:.2f}' for each in seconds)}")
    return median(seconds[1:-1])


def train(
    recipe: Recipe, out: Path, training: Dataset, measured: Dataset, *, plain_steps: bool
) -> dict[str, Any]:
    """Train, and return this part of the report."""
    trainer = Trainer(recipe, out, training, measured, plain_steps=plain_steps)
    begun = time.monotonic()
    rows = []
    for row in trainer.epochs():
        rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    seconds = (time.monotonic() - begun) / max(1, len(rows))
    return {
        "epochs": trainer.epoch,
        "seconds_per_epoch": round(seconds, 3),
        "images_per_second": round(len(training) / seconds),
        "last_epoch": trainer.history[-1],
    }


def measure(checkpoint: Path, data: Path) -> dict[str, Any]:
    """The figures on the test images, with the server's preprocessing, in 32 bits on the CPU."""
    cores = torch.get_num_threads()
    options = BackendOptions(
        backend="torch", device="cpu", precision="float32", cores=cores, streams=cores
    )
    report = evaluate(
        load_classifier(checkpoint, options=options), data, split="test", workers=cores, quiet=True
    )
    print(report, flush=True)
    return asdict(report)


def run(args: argparse.Namespace, limits: Limits, data: Path) -> None:
    """Probe, train, evaluate; report.json is written before and after the evaluation."""
    given = {**given_choices(args), "name": getattr(args, "name", Recipe().name)}
    recipe = choose_recipe(data, given, args.preset)
    sets = load_sets(data, PreprocessSpec(recipe.image_size), recipe.holdout, quiet=True)
    log(f"{len(sets[0])} + {len(sets[1])} images decoded, {limits.left:.0f} s left")
    args.out.mkdir(parents=True, exist_ok=True)
    with threads_for(recipe.batch_size):
        pace = seconds_per_epoch(recipe, *sets, plain_steps=args.plain_steps)
        faulthandler.cancel_dump_traceback_later()
        if "epochs" not in given:
            epochs = epochs_that_fit(pace, limits)
            recipe = recipe_for(len(sets[0]), {**given, "epochs": epochs}, args.preset)
        log(f"{pace:.2f} s per epoch and {limits.left:.0f} s left: {recipe.epochs} epochs")
        report = {"device": device_name(), "torch": torch.__version__, "recipe": asdict(recipe)}
        report |= train(recipe, args.out, *sets, plain_steps=args.plain_steps)
    write(args.out, report)
    log(f"trained, {limits.left:.0f} s left")
    write(args.out, report | {"test": measure(args.out / f"{recipe.name}.safetensors", data)})
    log(f"evaluated, {limits.left:.0f} s left")


def epochs_that_fit(pace: float, limits: Limits) -> int:
    fitting = int(MARGIN * (limits.left - EVALUATION_SECONDS) / pace)
    return max(LEAST_EPOCHS, min(fitting, limits.most_epochs))


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()


def write(out: Path, report: Mapping[str, Any]) -> None:
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def log(message: str) -> None:
    print(f"# {message}", flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_training")
    add_run(parser)
    parser.description = "Train on a GPU within a time limit, and measure on the test images."
    parser.add_argument("--seconds", type=float, default=270, help="time limit [270]")
    parser.add_argument(
        "--most-epochs", type=int, default=300, help="maximum number of epochs [300]"
    )
    parser.add_argument(
        "--plain-steps", action="store_true", help="do not compile or record the steps"
    )
    parser.set_defaults(preset="long", holdout=HOLDOUT)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    limits = Limits(seconds=args.seconds, most_epochs=args.most_epochs)
    faulthandler.dump_traceback_later(PROBE_SHARE * args.seconds, exit=True, file=STDERR)
    with tempfile.TemporaryDirectory() as folder:
        run(args, limits, decompress(args.data, Path(folder)))


if __name__ == "__main__":
    main()
