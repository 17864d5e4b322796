"""``xcit-serve predict``: classify image files, on this machine or by a server."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from app.cli.options import (
    BATCH_SIZE,
    CHECKPOINT_SETTINGS,
    DEVICE_SETTINGS,
    SERVER_OPTIONS,
    add_server_options,
    check_top_k,
    extra,
    read_command_settings,
)
from app.cli.output import complain, show_answers
from app.cli.parser import Parser, add_settings, settings_in
from app.config.settings import Settings, SettingsError, flag_of

if TYPE_CHECKING:
    from model.inference.classifier import Classifier
    from model.inference.prediction import Prediction


def add_arguments(parser: Parser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--top-k", type=int, metavar="N", help="classes per image [5, or all]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_settings(parser, ("checkpoint", *CHECKPOINT_SETTINGS, *DEVICE_SETTINGS))
    parser.add_argument(
        "--url", metavar="URL", help="send the images to this server instead of a local model"
    )
    add_server_options(parser)


def run(args: argparse.Namespace) -> int:
    check_where(args)
    if args.url is None:
        return predict_files(args, read_command_settings(args))
    with extra("client"):
        from app.cli.remote import predict_remotely

    return predict_remotely(args)


def check_where(args: argparse.Namespace) -> None:
    """Raises `SettingsError` for a server's flag without ``--url``, or a model's flag with it."""
    local = args.url is None
    unused = [n for n in SERVER_OPTIONS if getattr(args, n)] if local else settings_in(args)
    for name in unused:
        hint = "requires --url" if local else "applies to a local model; remove it, or --url"
        raise SettingsError(f"{flag_of(name)} {hint}")


def predict_files(args: argparse.Namespace, settings: Settings) -> int:
    """Print the top classes of each image; unreadable ones are reported and skipped."""
    from app.loading import load_for_command
    from model.errors import ModelError

    try:
        classifier = load_for_command(settings, streams=1, max_batch_size=BATCH_SIZE)
        classifier.backend.open()
    except ModelError as error:
        return complain(str(error))
    top_k = check_top_k(args.top_k, classifier.spec.num_classes)
    answers, failures = classify_files(classifier, args.images, top_k)
    show_answers(answers, as_json=args.json)
    return complain(*failures) if failures else 0


def classify_files(
    classifier: "Classifier", paths: Sequence[Path], top_k: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """An answer for each image that could be read, and a line for each that could not."""
    from model.errors import ImageError

    answers: list[dict[str, Any]] = []
    failures: list[str] = []
    quiet = len(paths) <= BATCH_SIZE or not sys.stderr.isatty()
    with tqdm(total=len(paths), unit="image", disable=quiet) as progress:
        for start in range(0, len(paths), BATCH_SIZE):
            batch = paths[start : start + BATCH_SIZE]
            items = []
            for path in batch:
                try:
                    items.append((path, classifier.preprocess(path.read_bytes())))
                except OSError as error:
                    failures.append(f"{path}: {error.strerror}")
                except ImageError as error:
                    failures.append(f"{path}: {error}")
            found = classifier.predict([item for _, item in items], top_k) if items else []
            for (path, _), classification in zip(items, found, strict=True):
                rows = [*map(row, classification.predictions)]
                answers.append({"file": str(path), "predictions": rows})
            progress.update(len(batch))
    return answers, failures


def row(prediction: "Prediction") -> dict[str, Any]:
    """A prediction without the fields that are unknown."""
    return {name: value for name, value in asdict(prediction).items() if value is not None}
