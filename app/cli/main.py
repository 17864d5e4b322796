"""The command ``xcit-serve`` and its subcommands.

Each command imports its dependencies when it runs, because PyTorch takes seconds to import.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from app.cli import (
    bench,
    calibrate,
    convert,
    evaluate,
    explain,
    inspect,
    key,
    predict,
    quantize,
    score,
    serve,
    train,
    variants,
)
from app.cli.options import MissingExtra
from app.cli.output import INTERRUPTED, complain, show
from app.cli.parser import Parser, check_spelling
from app.config.settings import SettingsError

COMMANDS = {
    "serve": (serve, "serve a checkpoint over HTTP"),
    "key": (key, "make an API key"),
    "predict": (predict, "classify image files, on this machine or by a server"),
    "score": (score, "classify many images into parquet files, without a server"),
    "explain": (explain, "draw where the model looks in an image"),
    "variants": (variants, "list the published models that can be served by name"),
    "inspect": (inspect, "describe a checkpoint"),
    "convert": (convert, "write a checkpoint that describes itself"),
    "evaluate": (evaluate, "measure a checkpoint on labelled images"),
    "calibrate": (calibrate, "fit the temperature of a checkpoint's scores"),
    "quantize": (quantize, "compute a checkpoint in 8-bit integers"),
    "train": (train, "train a model on a folder of images"),
    "bench": (bench, "measure a server under load"),
}


class ShowVersion(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        show(f"{parser.prog} {version('xcit-serve')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 success, 1 failure, 2 usage error, 130 interrupted.
    """
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        return int(args.command(args))
    except SettingsError as error:
        return complain(*str(error).splitlines(), code=2)
    except MissingExtra as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return complain("interrupted", code=INTERRUPTED)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command, with its function as ``command``; raises `SettingsError`."""
    if words[:1] == ["train"]:  # its flags come from the recipe, which imports PyTorch
        return argparse.Namespace(command=train.run, words=words[1:])
    parser = build_parser()
    check_spelling(parser, words)
    return parser.parse_args(words)


def build_parser() -> Parser:
    parser = Parser(prog="xcit-serve", description="Serve XCiT image classifiers over HTTP.")
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (command, summary) in COMMANDS.items():
        parser.commands[name] = subparser = commands.add_parser(name, help=summary)
        command.add_arguments(subparser)
        subparser.set_defaults(command=command.run)
    return parser
