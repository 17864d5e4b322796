"""The command ``python -m training``, with the recipe of the bundled checkpoint as default.

    python -m training run DATA --out runs/cifar10
    torchrun --nproc-per-node 2 -m training run DATA --out runs/cifar10

A run that was killed resumes from its last saved epoch when the same command is repeated, and ends
with the same weights as an uninterrupted run. ``--epochs`` may be raised later: the run then
resumes from the epoch before its rates began to fall. ``--start CHECKPOINT`` begins with the
weights of another run: for a second round with other choices, or for other classes.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from model.backends.base import BackendOptions
from model.errors import ModelError
from model.evaluation.dataset import Dataset, check_labels, list_split, load_dataset, load_images
from model.evaluation.evaluate import evaluate
from model.evaluation.holdout import held_out
from model.inference.classifier import load_classifier
from model.spec import PreprocessSpec
from training.recipe import PRESETS, Recipe, recipe_for
from training.runfiles import find_state
from training.start import architecture_of, read_start
from training.trainer import Trainer, rank_and_processes

IMAGES_PER_THREAD = 32
DESCRIPTION = (
    "Train an XCiT on a folder of images, or resume a run that was stopped. The folder contains "
    "train/LABEL/IMAGE and test/LABEL/IMAGE, or LABEL/IMAGE, of which a tenth is held out."
)


def run_command(args: argparse.Namespace) -> None:
    """Run training; raises `ModelError`."""
    rank, processes = rank_and_processes()
    if processes > 1:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    train(args.data, args.out, given_choices(args), args.preset, quiet=rank > 0)
    if processes > 1:
        dist.destroy_process_group()


def given_choices(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe choices given as flags; the model is named after the directory."""
    given = {f.name: getattr(args, f.name) for f in fields(Recipe) if hasattr(args, f.name)}
    return {"name": args.out.resolve().name, **given}


def train(
    data: Path,
    out: Path,
    given: dict[str, Any],
    preset: str = "default",
    *,
    quiet: bool = False,
) -> None:
    """Train on ``data``; invalid choices are refused before any image is decoded.

    Args:
        given: choices of the recipe; the others follow from the start, the preset and the size of
            the data.

    Raises:
        ModelError: data, start and choices do not fit together.
    """
    start = read_start(given["start"], given) if given.get("start") else None
    labels = check_labels(data)
    recipe = choose_recipe(data, {**(architecture_of(start) if start else {}), **given}, preset)
    preprocess = start.spec.preprocess if start else PreprocessSpec(recipe.image_size)
    find_state(out, recipe, labels)  # raises if it has the state of another run
    prepare_directory(out)
    training, measured = load_sets(data, preprocess, recipe.holdout, quiet=quiet)
    with threads_for(recipe.batch_size):
        Trainer(recipe, out, training, measured, start).run()


def choose_recipe(data: Path, given: Mapping[str, Any], preset: str = "default") -> Recipe:
    """The recipe for the training images of ``data``; raises `ModelError`."""
    paths = list_split(data, "train")
    holdout = given.get("holdout", 0)
    kept = held_out(paths, holdout) if holdout else []
    return recipe_for(len(paths) - len(kept), given, preset)


def load_sets(
    data: Path, preprocess: PreprocessSpec, holdout: int, *, quiet: bool = False
) -> tuple[Dataset, Dataset]:
    """The images to train on and those to measure on: ``holdout`` of them, or the test set.

    Raises:
        ModelError: an image does not decode, or the classes are too small for the holdout.
    """
    paths = list_split(data, "train")
    training = load_images(data, paths, preprocess, "decode train", quiet=quiet)
    if not holdout:
        return training, load_dataset(data, "test", preprocess, quiet=quiet)
    chosen = set(held_out(paths, holdout))
    kept_out = torch.tensor([path in chosen for path in paths])
    return training.part(~kept_out), training.part(kept_out)


def prepare_directory(out: Path) -> None:
    """Create the directory of a run; raises `ModelError` if it is not writable."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ModelError(
            f"{out}: the run's files cannot be written there: {error.strerror}; "
            "choose another directory with --out"
        ) from error


@contextmanager
def threads_for(batch_size: int) -> Iterator[None]:
    """Use fewer threads for small batches, on which threads mostly wait for each other."""
    usual = torch.get_num_threads()
    torch.set_num_threads(min(usual, max(1, batch_size // IMAGES_PER_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def evaluate_command(args: argparse.Namespace) -> None:
    """Print the figures of a checkpoint on the test images, with the server's own preprocessing."""
    workers = torch.get_num_threads()
    classifier = load_classifier(args.checkpoint, options=BackendOptions(cores=workers))
    report = evaluate(classifier, args.data, split="test", workers=workers)
    print(json.dumps(asdict(report), indent=2) if args.json else report)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Train an XCiT.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_run(commands.add_parser("run", help="train, or resume a run that was stopped"))

    test = commands.add_parser("evaluate", help="measure a checkpoint on the test images")
    test.add_argument("checkpoint", type=Path)
    test.add_argument("data", type=Path, help="image folder, or a tar of one")
    test.add_argument("--json", action="store_true", help="print one JSON object")
    test.set_defaults(command=evaluate_command)
    return parser


def add_run(run: argparse.ArgumentParser) -> None:
    """Add the arguments of a run: a flag for each choice of the recipe."""
    run.description = DESCRIPTION
    run.add_argument("data", type=Path, metavar="DATA", help="image folder, or a tar of one")
    run.add_argument("--out", type=Path, required=True, help="directory of the run's files")
    run.add_argument(
        "--preset",
        choices=PRESETS,
        default="default",
        help="defaults of the other flags; long: for a GPU and 10,000 images or more [default]",
    )
    for choice in fields(Recipe):
        default = choice.metadata["rule"] or choice.default
        run.add_argument(
            f"--{choice.name.replace('_', '-')}",
            type=type(choice.default),
            default=argparse.SUPPRESS,
            metavar=choice.name.rpartition("_")[2].upper(),
            help=f"{choice.metadata['help']} [{default}]",
        )
    run.set_defaults(command=run_command)


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    try:
        args.command(args)
    except ModelError as error:
        sys.exit(f"error: {error}")
