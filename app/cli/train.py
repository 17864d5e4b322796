"""``xcit-serve train``: train a model on a folder of images, in a checkout of the project."""

import argparse
import sys
from pathlib import Path

from app.cli.output import complain
from app.cli.parser import Parser, check_spelling


def add_arguments(parser: Parser) -> None:
    """Add no arguments: `run` makes the flags from the recipe."""


def run(args: argparse.Namespace) -> int:
    sys.path.insert(0, str(Path.cwd()))  # `training` is not installed with the service
    try:
        from training.command import add_run, run_command
    except ModuleNotFoundError as error:
        if error.name != "training":
            raise
        return complain(
            "training is not part of the installed package; "
            "run this command in a clone of the repository"
        )
    from model.errors import ModelError

    parser = Parser(prog="xcit-serve train")
    add_run(parser)
    check_spelling(parser, args.words)
    try:
        run_command(parser.parse_args(args.words))
    except ModelError as error:
        return complain(str(error))
    return 0
