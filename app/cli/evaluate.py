"""``xcit-serve evaluate``: measure a checkpoint on images."""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.options import (
    BATCH_SIZE,
    CHECKPOINT,
    CHECKPOINT_SETTINGS,
    DEVICE_SETTINGS,
    add_holdout,
    check_suffix,
    check_writable,
    in_place,
    read_command_settings,
)
from app.cli.output import complain, show
from app.cli.parser import Parser, add_settings
from app.config.cpu_quota import usable_cores
from app.config.settings import SettingsError

if TYPE_CHECKING:
    from model.evaluation.reference import Evaluation
    from model.spec import ModelSpec


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Measure accuracy and calibration on images in folders named after their class, by label "
        "or synset. If the folder or tar has train/ and test/ (or val/), only the test images are "
        "used. If the checkpoint has a reference, the images are compared with it."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("data", type=Path, metavar="DIR", help="image folder, or a tar of one")
    parser.add_argument(
        "--reference",
        action="store_true",
        help="store the distributions of predictions and images in the checkpoint; the server "
        "exports them, to compare its traffic with",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.safetensors",
        help="write the checkpoint with the reference there [CHECKPOINT, if it describes itself]",
    )
    add_holdout(parser)
    parser.add_argument(
        "--unlabelled",
        action="store_true",
        help="use all images in DIR, whatever their folders; accuracy is not measured",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_settings(parser, (*CHECKPOINT_SETTINGS, *DEVICE_SETTINGS, "streams"))


def run(args: argparse.Namespace) -> int:
    from app.loading import checkpoint_path, load_for_command, overrides
    from model.checkpoint import read_checkpoint, write_changed
    from model.errors import ModelError
    from model.evaluation.reference import check_reference, choose_paths, evaluate_images

    check_options(args)
    settings = read_command_settings(args)
    target = None
    try:
        if args.reference:
            checkpoint = read_checkpoint(checkpoint_path(settings), overrides(settings))
            target = args.out or in_place(args.checkpoint, checkpoint)
            check_writable(target)
        classifier = load_for_command(settings)
        spec = classifier.spec
        paths = choose_paths(args.data, args.holdout, labelled=not args.unlabelled)
        if target:
            check_reference(args.data, len(paths), spec.num_classes)
        found = evaluate_images(
            classifier,
            *(args.data, paths),
            labelled=not args.unlabelled,
            workers=usable_cores(),
            batch_size=BATCH_SIZE,
            quiet=not sys.stderr.isatty(),
        )
        if target:
            check_reference(args.data, found.seen.images, spec.num_classes)
            write_changed(checkpoint, target, replace(spec, reference=found.seen))
    except ModelError as error:
        return complain(str(error))
    show(as_json(found, spec, target) if args.json else as_table(found, spec, target))
    return complain(*found.unreadable) if found.unreadable else 0


def check_options(args: argparse.Namespace) -> None:
    """Raises `SettingsError` for options that contradict each other."""
    check_suffix(args.out, ".safetensors")
    if args.out and not args.reference:
        raise SettingsError("--out: only with --reference; evaluate alone writes no checkpoint")
    if args.holdout and args.unlabelled:
        raise SettingsError(
            "--holdout: not with --unlabelled; the images were chosen by their labels"
        )


def as_table(found: "Evaluation", spec: "ModelSpec", target: Path | None) -> str:
    lines = [str(found.report)] if found.report else [f"{found.seen.images} images"]
    if target:
        lines.append(f"reference of {found.seen.images} images stored in {target}")
    elif compared := compare(found, spec):
        indices = ", ".join(f"{name} {value:.3f}" for name, value in compared.items())
        lines.append(f"distance from the reference (PSI): {indices}")
    return "\n".join(lines)


def as_json(found: "Evaluation", spec: "ModelSpec", target: Path | None) -> str:
    content: dict[str, Any] = {"images": found.seen.images, "unreadable": found.unreadable}
    if found.report:
        content = asdict(found.report)
    if target:
        content["reference"] = found.seen.to_json()
    elif compared := compare(found, spec):
        content["distance"] = compared
    return json.dumps(content, indent=2, ensure_ascii=False)


def compare(found: "Evaluation", spec: "ModelSpec") -> dict[str, float] | None:
    """The distance of each distribution from the reference; ``None`` without one."""
    from model.drift import distances

    return distances(spec.reference, found.seen) if spec.reference else None
