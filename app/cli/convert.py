"""``xcit-serve convert``: write a checkpoint that describes itself."""

import argparse
from dataclasses import replace
from pathlib import Path

from app.cli.options import CHECKPOINT, CHECKPOINT_SETTINGS, read_command_settings
from app.cli.output import complain, show
from app.cli.parser import Parser, add_settings
from app.config.settings import SettingsError


def add_arguments(parser: Parser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("output", type=Path, metavar="OUTPUT.safetensors")
    parser.add_argument("--name", help="name of the model [the checkpoint's]")
    parser.add_argument("--version", help="version of the model [the checkpoint's]")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="type of the weights on disk; 16 bits halve the file size [float32]",
    )
    add_settings(parser, CHECKPOINT_SETTINGS)


def run(args: argparse.Namespace) -> int:
    from app.loading import checkpoint_path, overrides
    from model.checkpoint import read_checkpoint, write_checkpoint
    from model.errors import ModelError

    settings = read_command_settings(args)
    if args.output.suffix != ".safetensors":
        raise SettingsError(f"{args.output}: the output's name must end in .safetensors")
    try:
        checkpoint = read_checkpoint(checkpoint_path(settings), overrides(settings))
        if checkpoint.quantisation:
            return complain(
                f"{checkpoint.path}: quantised; convert the original checkpoint, then quantise that"
            )
        spec = replace(
            checkpoint.spec,
            name=args.name or checkpoint.spec.name,
            version=args.version or checkpoint.spec.version,
        )
        write_checkpoint(args.output, spec, checkpoint.state, dtype=args.dtype)
    except ModelError as error:
        return complain(str(error))
    show(f"{args.output}: {spec.name} {spec.version}, {spec.family}, {spec.num_classes} classes")
    return 0
