"""Arguments, settings and optional dependencies that several commands share."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.output import complain
from app.cli.parser import Parser, settings_in
from app.config.settings import (
    CLIENT_KEY,
    DEFAULT_TOP_K,
    Settings,
    SettingsError,
    read_settings,
)
from app.config.unknown_variables import unknown_variables

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint

CHECKPOINT = "weight file, name of a published variant, or hf-hub:OWNER/NAME[@REVISION]"
# Settings that other commands than serve have as flags, too.
CHECKPOINT_SETTINGS = ("labels", "image_size", "preprocess", "hyperparameters", "temperature")
DEVICE_SETTINGS = ("backend", "device", "precision", "compile", "deterministic", "cache_dir")
SERVER_OPTIONS = ("api_key", "timeout", "concurrency")  # not settings: flags of commands with --url
BATCH_SIZE = 16  # images per batch, in commands that classify files


def read_command_settings(args: argparse.Namespace) -> Settings:
    """Settings from flags, environment and ``.env``, with a warning for each unknown variable."""
    settings = read_settings(**settings_in(args))
    complain(*unknown_variables())
    return settings


def add_server_options(parser: Parser) -> None:
    parser.add_argument("--api-key", metavar="KEY", help=f"API key for the server [{CLIENT_KEY}]")
    parser.add_argument(
        "--timeout", metavar="SECONDS", help="maximum time to wait for a response [30]"
    )
    parser.add_argument("--concurrency", metavar="N", help="requests in flight at once [8]")


def add_holdout(parser: Parser) -> None:
    parser.add_argument(
        "--holdout",
        type=int,
        default=0,
        metavar="N",
        help="use the training images that train --holdout N kept out of training",
    )


def check_top_k(requested: int | None, classes: float) -> int:
    """The number of classes to print: by default 5, or all if there are fewer.

    Raises:
        SettingsError: ``requested`` is not from 1 to ``classes``.
    """
    top_k = int(min(DEFAULT_TOP_K, classes)) if requested is None else requested
    if not 1 <= top_k <= classes:
        raise SettingsError(f"--top-k={top_k}: must be from 1 to {classes}")
    return top_k


class MissingExtra(Exception):
    """A package that a command needs is not installed; the message says how to install it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Wrap imports that need the extra ``name`` of this project; raises `MissingExtra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{error.name} is not installed; pip install 'xcit-serve[{name}]' installs it"
        ) from error


def check_suffix(path: Path | None, suffix: str) -> None:
    """Raises `SettingsError` if the name of an output does not end in ``suffix``."""
    if path and path.suffix != suffix:
        raise SettingsError(f"{path}: the output's name must end in {suffix}")


def check_writable(*paths: Path) -> None:
    """Raises `SettingsError` if a file cannot be created there, before anything is measured."""
    for path in paths:
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise SettingsError(f"{path}: cannot be written: {error.strerror}") from error


def in_place(given: str, checkpoint: "Checkpoint") -> Path:
    """The file of a checkpoint, to be replaced; raises `SettingsError` if it should not be."""
    path = checkpoint.path
    if not checkpoint.self_describing:
        reason = "does not describe itself"
    elif not Path(given).exists():
        reason = "was downloaded into a cache"
    elif path.is_symlink():
        reason = "is a link"
    else:
        return path
    raise SettingsError(f"{path} {reason}; write another file with --out FILE.safetensors")
