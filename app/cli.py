"""``xcit-serve``: serve a checkpoint, or use, inspect, convert or train one without a server.

Each command imports what it needs when it runs: PyTorch takes seconds, and ``--help`` none.
"""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from app.cloud import follow_cloud
from app.console import INTERRUPTED, complain, show
from app.extras import MissingExtra, extra
from app.flags import Parser, add_settings, check_spelling, settings_in
from app.otel_environment import without_opentelemetry
from app.settings import CLIENT_KEY, ENV_PREFIX, Settings, SettingsError, flag_of, read_settings
from app.unknown_variables import unknown_variables

CHECKPOINT = "weight file, name of a published variant, or hf-hub:OWNER/NAME[@REVISION]"
# Settings that are flags of commands other than serve, too.
OF_CHECKPOINTS = ("labels", "image_size", "preprocess", "hyperparameters")
OF_DEVICES = ("backend", "device", "precision", "compile", "cache_dir")
OF_SERVERS = ("api_key", "timeout", "concurrency")  # not settings: flags of commands with --url


class ShowVersion(argparse.Action):
    """Looks the version up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        show(f"{parser.prog} {version('xcit-serve')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 success, 1 failure, 2 usage error, 130 interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        args = parse(words)
        return int(args.command(args))
    except SettingsError as error:
        return complain(*str(error).splitlines(), code=2)
    except MissingExtra as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return complain("interrupted", code=INTERRUPTED)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command, and the command itself; raises `SettingsError`."""
    if words[:1] == ["train"]:  # whose flags are made from the recipe, which takes PyTorch
        return argparse.Namespace(command=train_command, words=words[1:])
    parser = build_parser()
    check_spelling(parser, words)
    return parser.parse_args(words)


def build_parser() -> Parser:
    parser = Parser(prog="xcit-serve", description="Serve XCiT image classifiers over HTTP.")
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, fill: Callable[[Parser], None], text: str) -> None:
        parser.commands[name] = commands.add_parser(name, help=text)
        fill(parser.commands[name])

    add("serve", add_serve, "serve a checkpoint over HTTP")
    add("key", add_key, "make an API key")
    add("predict", add_predict, "classify image files, on this machine or by a server")
    add("explain", add_explain, "draw where the model looks in an image")
    add("variants", add_variants, "list the published models that can be served by name")
    add("inspect", add_inspect, "print what a checkpoint is")
    add("convert", add_convert, "write a checkpoint that describes itself")
    add("evaluate", add_evaluate, "measure a checkpoint on labelled images")
    add("train", add_train, "train a model on a folder of images")
    add("bench", add_bench, "measure a server under load")
    return parser


def read_given(args: argparse.Namespace) -> Settings:
    """Settings from flags, environment and ``.env``, with a warning for each unknown variable."""
    settings = read_settings(**settings_in(args))
    complain(*unknown_variables())
    return settings


def add_serve(parser: Parser) -> None:
    parser.description = (
        f"Serve a checkpoint. Each flag is also an environment variable: --max-batch-size is "
        f"{ENV_PREFIX}MAX_BATCH_SIZE. Flags win."
    )
    add_settings(parser, Settings.model_fields)
    parser.set_defaults(command=serve_command)


def serve_command(args: argparse.Namespace) -> int:
    settings = follow_cloud(read_settings(**settings_in(args)), os.environ)

    gc.disable()  # until the model is there: a tenth of the time to import and load
    with without_opentelemetry(os.environ):
        from app.logs import set_up_logs
        from app.server import run

    set_up_logs(settings.log_level, settings.log_format)
    for warning in unknown_variables():
        logging.getLogger("app.settings").warning(warning)
    run(settings)


def add_key(parser: Parser) -> None:
    parser.description = (
        "Make an API key for a client: the key itself, and the line for XCIT_API_KEYS_FILE, which "
        "holds no more than its hash."
    )
    parser.add_argument("name", metavar="NAME", help="of the client, for logs and metrics")
    parser.set_defaults(command=key_command)


def key_command(args: argparse.Namespace) -> int:
    from app.api_keys import new_key

    key, line = new_key(args.name)
    show(f"key:  {key}", f"line: {line}")
    return 0


def add_predict(parser: Parser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--top-k", type=int, metavar="N", help="classes per image [5, or all]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_settings(parser, ("checkpoint", *OF_CHECKPOINTS, *OF_DEVICES))
    parser.add_argument(
        "--url", metavar="URL", help="ask this server instead of a checkpoint on this machine"
    )
    add_server_options(parser)
    parser.set_defaults(command=predict_command)


def predict_command(args: argparse.Namespace) -> int:
    check_where(args)
    if args.url is None:
        from app.offline import predict_files

        return predict_files(args, read_given(args))
    with extra("client"):
        from app.remote import predict_files as predict_remotely

    return predict_remotely(args)


def check_where(args: argparse.Namespace) -> None:
    """Raises `SettingsError` for a flag of a server without ``--url``, or of a model with it."""
    local = args.url is None
    unused = [name for name in OF_SERVERS if getattr(args, name)] if local else settings_in(args)
    for name in unused:
        hint = "a server: name it by --url" if local else "a model on this machine, not at --url"
        raise SettingsError(f"{flag_of(name)} is for {hint}")


def add_server_options(parser: Parser) -> None:
    parser.add_argument("--api-key", metavar="KEY", help=f"for the server [{CLIENT_KEY}]")
    parser.add_argument(
        "--timeout", metavar="SECONDS", help="longest wait for an answer of the server [30]"
    )
    parser.add_argument("--concurrency", metavar="N", help="requests in flight at once [8]")


def add_explain(parser: Parser) -> None:
    parser.description = (
        "Draw what the class token attends to, in the last layer that has one, over the image as "
        "the model crops it."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("output", type=Path, metavar="OUTPUT.png")
    parser.add_argument("--head", type=int, metavar="N", help="of the attention, from 0 [mean]")
    add_settings(parser, ("checkpoint", *OF_CHECKPOINTS))
    parser.set_defaults(command=explain_command)


def explain_command(args: argparse.Namespace) -> int:
    from app.offline import explain_file

    return explain_file(args, read_given(args))


def add_variants(parser: Parser) -> None:
    parser.description = (
        "List the models that the authors of XCiT published. Each name can be given as a "
        "checkpoint: the weights are downloaded when they are first used."
    )
    parser.set_defaults(command=variants_command)


def variants_command(_: argparse.Namespace) -> int:
    from app.offline import list_variants

    return list_variants()


def add_inspect(parser: Parser) -> None:
    parser.add_argument(
        "checkpoint",
        nargs="?",
        default=argparse.SUPPRESS,
        metavar="CHECKPOINT",
        help=f"{CHECKPOINT} [{ENV_PREFIX}CHECKPOINT, or the bundled one]",
    )
    add_settings(parser, OF_CHECKPOINTS)
    parser.set_defaults(command=inspect_command)


def inspect_command(args: argparse.Namespace) -> int:
    from app.offline import inspect_checkpoint

    return inspect_checkpoint(read_given(args))


def add_convert(parser: Parser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("output", type=Path, metavar="OUTPUT.safetensors")
    parser.add_argument("--name", help="name of the model [the checkpoint's]")
    parser.add_argument("--version", help="version of the model [the checkpoint's]")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="type of the weights on disk; half the size at 16 bits [float32]",
    )
    add_settings(parser, OF_CHECKPOINTS)
    parser.set_defaults(command=convert_command)


def convert_command(args: argparse.Namespace) -> int:
    from app.offline import convert_checkpoint

    return convert_checkpoint(args, read_given(args))


def add_evaluate(parser: Parser) -> None:
    parser.description = (
        "Measure accuracy and calibration on images in folders named after their class, by label "
        "or synset. Of a folder or tar with train/ and test/ (or val/), the test images count."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("data", type=Path, metavar="DIR", help="image folder, or a tar of one")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_settings(parser, (*OF_CHECKPOINTS, *OF_DEVICES, "streams"))
    parser.set_defaults(command=evaluate_command)


def evaluate_command(args: argparse.Namespace) -> int:
    from app.offline import evaluate_checkpoint

    return evaluate_checkpoint(args, read_given(args))


def add_train(parser: Parser) -> None:
    """Only the name, for ``xcit-serve --help``: see `parse`."""
    parser.set_defaults(command=train_command)


def train_command(args: argparse.Namespace) -> int:
    from app.offline import train

    return train(args.words)


def add_bench(parser: Parser) -> None:
    parser.description = (
        "Measure a server. A closed loop keeps N requests under way. An open loop sends at random "
        "times, R a second, whatever the server does, and latency counts from when a request was "
        "due: a stall is felt by all who would have come. Several of both are measured in turn."
    )
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="[one made up]")
    parser.add_argument("--url", required=True, metavar="URL", help="such as http://HOST:8000")
    parser.add_argument(
        "--rate", metavar="R,...", help="requests a second of each open loop, at most 10,000"
    )
    parser.add_argument("--seconds", default="10", help="of each load [10]")
    parser.add_argument("--warmup", default="1", metavar="SECONDS", help="before each load [1]")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="latency as a picture")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything, as JSON")
    add_server_options(parser)
    parser.set_defaults(command=bench_command)


def bench_command(args: argparse.Namespace) -> int:
    with extra("client"):
        from app.bench import bench

    return bench(args)
