"""``xcit-serve explain``: draw where the model looks in an image."""

import argparse
from pathlib import Path

from app.cli.options import CHECKPOINT_SETTINGS, read_command_settings
from app.cli.output import complain
from app.cli.parser import Parser, add_settings
from app.config.settings import SettingsError


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Draw the attention of the class token, in the last layer that has one, over the image as "
        "the model crops it."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("output", type=Path, metavar="OUTPUT.png")
    parser.add_argument("--head", type=int, metavar="N", help="attention head, from 0 [mean]")
    add_settings(parser, ("checkpoint", *CHECKPOINT_SETTINGS))


def run(args: argparse.Namespace) -> int:
    from app.loading import checkpoint_path, overrides
    from model.errors import ImageError, ModelError
    from model.inference.saliency import load_explainer

    settings = read_command_settings(args)
    if args.output.suffix.lower() != ".png":
        raise SettingsError(f"{args.output}: the output's name must end in .png")
    try:
        explainer = load_explainer(
            checkpoint_path(settings), overrides(settings), settings.max_pixels
        )
        args.output.write_bytes(explainer.picture(args.image.read_bytes(), args.head))
    except ImageError as error:
        return complain(f"{args.image}: {error}")
    except ModelError as error:
        return complain(str(error))
    except OSError as error:
        return complain(f"{error.filename}: {error.strerror}")
    return 0
