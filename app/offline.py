"""The commands that need no server: classify files, look at, convert or measure a checkpoint."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

import model
from app.console import complain, printable, show_answers
from app.cores import usable_cores
from app.flags import Parser, check_spelling
from app.model_settings import backend_options, checkpoint_path, overrides
from app.settings import Settings, SettingsError
from app.top_k import check_top_k
from model.variants import VARIANTS

BATCH_SIZE = 16


def predict_files(args: argparse.Namespace, settings: Settings) -> int:
    """Print the best classes of each image; one that cannot be read is reported and skipped."""
    try:
        classifier = model.load_classifier(
            checkpoint_path(settings),
            overrides(settings),
            backend_options(settings, usable_cores(), streams=1),
            max_batch_size=BATCH_SIZE,
            max_pixels=settings.max_pixels,
        )
        classifier.backend.open()
    except model.ModelError as error:
        return complain(str(error))
    top_k = check_top_k(args.top_k, classifier.spec.num_classes)
    answers, mistakes = classify_files(classifier, args.images, top_k)
    show_answers(answers, as_json=args.json)
    return complain(*mistakes) if mistakes else 0


def classify_files(
    classifier: model.Classifier, paths: Sequence[Path], top_k: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """An answer for each image that could be read, and a line for each that could not."""
    answers: list[dict[str, Any]] = []
    mistakes: list[str] = []
    quiet = len(paths) <= BATCH_SIZE or not sys.stderr.isatty()
    with tqdm(total=len(paths), unit="image", disable=quiet) as progress:
        for chunk in chunks(paths, BATCH_SIZE):
            items = []
            for path in chunk:
                try:
                    items.append((path, classifier.preprocess(path.read_bytes())))
                except OSError as error:
                    mistakes.append(f"{path}: {error.strerror}")
                except model.ImageError as error:
                    mistakes.append(f"{path}: {error}")
            found = classifier.predict([item for _, item in items], top_k) if items else []
            for (path, _), classification in zip(items, found, strict=True):
                rows = [*map(row, classification.predictions)]
                answers.append({"file": str(path), "predictions": rows})
            progress.update(len(chunk))
    return answers, mistakes


def row(prediction: model.Prediction) -> dict[str, Any]:
    return {name: value for name, value in asdict(prediction).items() if value is not None}


def explain_file(args: argparse.Namespace, settings: Settings) -> int:
    """Write a picture of where the model looks in an image."""
    if args.output.suffix.lower() != ".png":
        raise SettingsError(f"{args.output}: the output's name must end in .png")
    try:
        explainer = model.load_explainer(
            checkpoint_path(settings), overrides(settings), settings.max_pixels
        )
        args.output.write_bytes(explainer.picture(args.image.read_bytes(), args.head))
    except model.ImageError as error:
        return complain(f"{args.image}: {error}")
    except model.ModelError as error:
        return complain(str(error))
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}")
    return 0


def inspect_checkpoint(settings: Settings) -> int:
    """Print what a checkpoint is, as `read_checkpoint` sees it."""
    try:
        checkpoint = model.read_checkpoint(checkpoint_path(settings), overrides(settings))
    except model.ModelError as error:
        return complain(str(error))
    rows, origins = describe(checkpoint)
    width = max(map(len, rows))
    for name, value in rows.items():
        origin = origins.get(name)
        line = f"{name:<{width}}  {value}" + (f"  ({origin})" if origin else "")
        print(printable(line))
    return 0


def describe(checkpoint: model.Checkpoint) -> tuple[dict[str, Any], dict[str, str]]:
    """What a checkpoint is, by name, and where values were learned from."""
    spec = checkpoint.spec
    parameters = sum(tensor.numel() for tensor in checkpoint.state.values())
    rows: dict[str, Any] = {
        "file": checkpoint.path,
        "sha256": checkpoint.sha256,
        "form": "self-describing" if checkpoint.self_describing else "raw state dict, inferred",
        "name": spec.name,
        "version": spec.version,
        "family": spec.family,
        "weights": f"{parameters:,} numbers in {len(checkpoint.state)} tensors",
        **spec.hyperparameters,
        **{f"preprocess.{name}": value for name, value in asdict(spec.preprocess).items()},
        "labels": "; ".join(spec.labels[:5]) + ("; …" if spec.num_classes > 5 else ""),
    }
    rows |= {topic: text for topic, text in spec.provenance.items() if topic not in rows}
    if checkpoint.warnings:
        rows["warning"] = "; ".join(checkpoint.warnings)
    return rows, {**checkpoint.description.origins, "weights": taken_from(checkpoint)}


def taken_from(checkpoint: model.Checkpoint) -> str:
    """Which part of a training checkpoint the weights are."""
    average = ", an average (EMA)" if checkpoint.averaged else ""
    others = f"; not used: {', '.join(checkpoint.others)}" if checkpoint.others else ""
    return f"{checkpoint.place}{average}{others}"


def convert_checkpoint(args: argparse.Namespace, settings: Settings) -> int:
    """Write any readable checkpoint in the form that describes itself."""
    if args.output.suffix != ".safetensors":
        raise SettingsError(f"{args.output}: the output's name must end in .safetensors")
    try:
        checkpoint = model.read_checkpoint(checkpoint_path(settings), overrides(settings))
        spec = replace(
            checkpoint.spec,
            name=args.name or checkpoint.spec.name,
            version=args.version or checkpoint.spec.version,
        )
        model.write_checkpoint(args.output, spec, checkpoint.state, dtype=args.dtype)
    except model.ModelError as error:
        return complain(str(error))
    print(f"{args.output}: {spec.name} {spec.version}, {spec.family}, {spec.num_classes} classes")
    return 0


def evaluate_checkpoint(args: argparse.Namespace, settings: Settings) -> int:
    """Measure a checkpoint on labelled images."""
    try:
        classifier = model.load_classifier(
            checkpoint_path(settings),
            overrides(settings),
            backend_options(settings, usable_cores()),
            max_pixels=settings.max_pixels,
        )
        report = model.evaluate(
            classifier,
            args.data,
            workers=usable_cores(),
            batch_size=BATCH_SIZE,
            quiet=not sys.stderr.isatty(),
        )
    except model.ModelError as error:
        return complain(str(error))
    print(json.dumps(asdict(report), indent=2, ensure_ascii=False) if args.json else report)
    return complain(*report.unreadable) if report.unreadable else 0


def list_variants() -> int:
    """Print the published models, by the names that every command takes."""
    print(f"{'name':<36}{'side':>6}{'patch':>7}{'dim':>6}{'depth':>7}")
    for name, variant in VARIANTS.items():
        sizes = variant.hyperparameters
        print(
            f"{name:<36}{variant.image_size:>6}{variant.patch_size:>7}"
            f"{sizes['dim']:>6}{sizes['depth']:>7}"
        )
    return 0


def train(words: Sequence[str]) -> int:
    """Train as the command line says; its flags are those of the recipe."""
    from model.train import add_run, run_command  # which the other commands do not need

    parser = Parser(prog="xcit-serve train")
    add_run(parser)
    check_spelling(parser, words)
    args = parser.parse_args(words)
    try:
        run_command(args)
    except model.ModelError as error:
        return complain(str(error))
    return 0


def chunks(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]
