"""``xcit-serve quantize``: compute the linear layers of a checkpoint in 8-bit integers."""

import argparse
import sys
from pathlib import Path

from app.cli.options import (
    CHECKPOINT,
    CHECKPOINT_SETTINGS,
    check_suffix,
    check_writable,
    extra,
    read_command_settings,
)
from app.cli.output import complain, printable, show
from app.cli.parser import Parser, add_settings
from app.config.cpu_quota import usable_cores
from app.config.settings import SettingsError

MAX_DROP = 0.5


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Write a checkpoint whose linear layers are computed in 8-bit integers by OpenVINO, and "
        "measure what changes."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument(
        "images",
        type=Path,
        metavar="IMAGES",
        help="folder or tar of images like those to classify; 1,300 are enough",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write"
    )
    parser.add_argument(
        "--max-drop",
        metavar="POINTS",
        help="maximum percentage points of images whose best class may change, or, with "
        f"--labelled, of accuracy that may be lost [{MAX_DROP}]",
    )
    parser.add_argument(
        "--labelled",
        action="store_true",
        help="the images are in folders named after their class, by label or synset",
    )
    add_settings(parser, CHECKPOINT_SETTINGS)


def run(args: argparse.Namespace) -> int:
    settings = read_command_settings(args)
    max_drop = parse_max_drop(args.max_drop)
    check_output(args.out, args.checkpoint)
    with extra("quantize"):
        from model.quantisation.quantise import quantise
    from app.loading import checkpoint_path, overrides
    from model.checkpoint import read_checkpoint, write_quantised
    from model.errors import ModelError

    try:
        checkpoint = read_checkpoint(checkpoint_path(settings), overrides(settings))
        quantisation, report = quantise(
            checkpoint,
            args.images,
            max_drop=max_drop,
            labelled=args.labelled,
            cores=usable_cores(),
            quiet=not sys.stderr.isatty(),
        )
        write_quantised(args.out, checkpoint, quantisation)
    except ModelError as error:
        return complain(str(error))
    rows = report.figures()
    width = max(map(len, rows))
    show(*(printable(f"{name:<{width}}  {value}") for name, value in rows.items()))
    show(
        f"{args.out}: written, {args.out.stat().st_size / 2**20:.1f} MiB with the original weights"
    )
    return 0


def parse_max_drop(text: str | None) -> float:
    """The value of ``--max-drop``; raises `SettingsError`."""
    try:
        found = MAX_DROP if text is None else float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 100:
        raise SettingsError(f"--max-drop={text}: must be a number from 0 to 100")
    return found


def check_output(path: Path, checkpoint: str) -> None:
    """Refuse an output that cannot be written, before minutes of work; raises `SettingsError`."""
    check_suffix(path, ".safetensors")
    if path.exists() and Path(checkpoint).exists() and path.samefile(checkpoint):
        raise SettingsError(f"--out={path}: the checkpoint itself; name another file")
    check_writable(path)
