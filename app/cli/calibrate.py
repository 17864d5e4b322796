"""``xcit-serve calibrate``: fit the temperature of a checkpoint's scores."""

import argparse
import json
import sys
from pathlib import Path

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
from app.config.settings import Settings

AGAIN = "make it again with xcit-serve evaluate --reference"


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Fit temperatures to images in folders named after their class, by label or synset, and "
        "store them in the checkpoint: logits are divided by them before the softmax, so that "
        "scores show how often such answers are right. The order of the classes stays. If the "
        "folder or tar has train/ and test/ (or val/), only the test images are used."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("data", type=Path, metavar="DIR", help="image folder, or a tar of one")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.safetensors",
        help="write the calibrated checkpoint there [CHECKPOINT, if it describes itself]",
    )
    add_holdout(parser)
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.svg",
        help="write the reliability diagram there [NAME.reliability.svg next to the checkpoint]",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    settings = [name for name in CHECKPOINT_SETTINGS if name != "temperature"]
    add_settings(parser, (*settings, *DEVICE_SETTINGS, "streams"))


def run(args: argparse.Namespace) -> int:
    from app.loading import checkpoint_path, load_for_command, overrides
    from model.checkpoint import read_checkpoint, write_changed
    from model.errors import ModelError
    from model.evaluation.calibrate import calibrate, choose_images
    from model.evaluation.diagram import write_diagram

    check_suffix(args.out, ".safetensors")
    check_suffix(args.plot, ".svg")
    settings = replace_temperature(read_command_settings(args))
    try:
        checkpoint = read_checkpoint(checkpoint_path(settings), overrides(settings))
        target = args.out or in_place(args.checkpoint, checkpoint)
        plot = args.plot or target.with_name(f"{target.stem}.reliability.svg")
        check_writable(target, plot)
        images = choose_images(args.data, args.holdout)
        found = calibrate(
            load_for_command(settings),
            *(args.data, images),
            workers=usable_cores(),
            batch_size=BATCH_SIZE,
            quiet=not sys.stderr.isatty(),
        )
        write_diagram(plot, found.panels)
        write_changed(checkpoint, target, found.spec)
    except ModelError as error:
        return complain(str(error))
    lines = (str(found), f"temperature stored in {target}", f"reliability diagram in {plot}")
    show(*([json.dumps(found.as_json(), indent=2, ensure_ascii=False)] if args.json else lines))
    if checkpoint.spec.reference and found.spec.temperatures != checkpoint.spec.temperatures:
        complain(f"{target}: the reference is removed, because the scores have changed; {AGAIN}")
    unreadable = found.after.report.unreadable
    return complain(*unreadable) if unreadable else 0


def replace_temperature(settings: Settings) -> Settings:
    """The settings without a temperature, so that the file's own is the one that is replaced."""
    return settings.model_copy(update={"temperature": None})
