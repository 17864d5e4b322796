"""``xcit-serve evaluate``: measure a checkpoint on labelled images."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from app.cli.options import (
    BATCH_SIZE,
    CHECKPOINT,
    CHECKPOINT_SETTINGS,
    DEVICE_SETTINGS,
    read_command_settings,
)
from app.cli.output import complain, show
from app.cli.parser import Parser, add_settings
from app.config.cpu_quota import usable_cores


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Measure accuracy and calibration on images in folders named after their class, by label "
        "or synset. If the folder or tar has train/ and test/ (or val/), only the test images are "
        "used."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("data", type=Path, metavar="DIR", help="image folder, or a tar of one")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_settings(parser, (*CHECKPOINT_SETTINGS, *DEVICE_SETTINGS, "streams"))


def run(args: argparse.Namespace) -> int:
    from app.loading import load_for_command
    from model.errors import ModelError
    from model.evaluation.evaluate import evaluate

    settings = read_command_settings(args)
    try:
        report = evaluate(
            load_for_command(settings),
            args.data,
            workers=usable_cores(),
            batch_size=BATCH_SIZE,
            quiet=not sys.stderr.isatty(),
        )
    except ModelError as error:
        return complain(str(error))
    show(json.dumps(asdict(report), indent=2, ensure_ascii=False) if args.json else str(report))
    return complain(*report.unreadable) if report.unreadable else 0
