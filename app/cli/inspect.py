"""``xcit-serve inspect``: describe a checkpoint."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from app.cli.options import CHECKPOINT, CHECKPOINT_SETTINGS, read_command_settings
from app.cli.output import complain, printable, show
from app.cli.parser import Parser, add_settings
from app.config.settings import ENV_PREFIX

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "checkpoint",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="CHECKPOINT",
        help=f"{CHECKPOINT} [{ENV_PREFIX}CHECKPOINT, or the bundled one]",
    )
    add_settings(parser, CHECKPOINT_SETTINGS)


def run(args: argparse.Namespace) -> int:
    from app.loading import checkpoint_path, overrides
    from model.checkpoint import read_checkpoint
    from model.errors import ModelError

    settings = read_command_settings(args)
    try:
        checkpoint = read_checkpoint(checkpoint_path(settings), overrides(settings))
    except ModelError as error:
        return complain(str(error))
    rows, origins = describe(checkpoint)
    width = max(map(len, rows))
    for name, value in rows.items():
        origin = origins.get(name)
        line = f"{name:<{width}}  {value}" + (f"  ({origin})" if origin else "")
        show(printable(line))
    return 0


def describe(checkpoint: "Checkpoint") -> tuple[dict[str, Any], dict[str, str]]:
    """The properties of a checkpoint by name, and the origins of those that were inferred."""
    from model.scores import show_temperatures

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
        "temperature": show_temperatures(spec.temperatures),
        "labels": "; ".join(spec.labels[:5]) + ("; …" if spec.num_classes > 5 else ""),
    }
    if quantisation := checkpoint.quantisation:
        rows["int8"] = (
            f"{len(quantisation.layers)} layers, calibrated on {quantisation.images} images"
        )
        rows |= {f"int8.{name}": text for name, text in quantisation.figures.items()}
    rows |= {topic: text for topic, text in spec.provenance.items() if topic not in rows}
    if spec.reference:
        rows["reference"] = f"{spec.reference.images:,} images"
    if checkpoint.warnings:
        rows["warning"] = "; ".join(checkpoint.warnings)
    return rows, {**checkpoint.description.origins, "weights": taken_from(checkpoint)}


def taken_from(checkpoint: "Checkpoint") -> str:
    """The part of a training checkpoint that holds the weights."""
    average = ", an average (EMA)" if checkpoint.averaged else ""
    others = f"; not used: {', '.join(checkpoint.others)}" if checkpoint.others else ""
    return f"{checkpoint.place}{average}{others}"
