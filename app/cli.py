"""``xcit-serve``: serve a checkpoint, or use, look at and convert one without a server.

Each command imports what it needs when it runs: PyTorch takes seconds, and ``--help`` none.
"""

import argparse
import gc
import os
from collections.abc import Sequence
from pathlib import Path

from app.cloud import follow_cloud
from app.console import INTERRUPTED, complain, leave, show
from app.extras import MissingExtra, extra
from app.otel_environment import without_opentelemetry
from app.settings import (
    CLIENT_KEY,
    ENV_PREFIX,
    Settings,
    SettingsError,
    read_settings,
    unknown_variables,
)

CHECKPOINT = "weight file, name of a published variant, or hf-hub:OWNER/NAME[@REVISION]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 well, 1 it failed, 2 it was asked wrongly, 130 stopped."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.command(args))
    except SettingsError as error:
        return complain(*str(error).splitlines(), code=2)
    except MissingExtra as error:
        return complain(str(error))
    except KeyboardInterrupt:
        return complain("interrupted", code=INTERRUPTED)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xcit-serve", description="Serve XCiT image classifiers over HTTP."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_serve(commands.add_parser("serve", help="serve a checkpoint over HTTP"))
    add_key(commands.add_parser("key", help="make an API key"))
    add_predict(commands.add_parser("predict", help="classify image files, here or by a server"))
    add_explain(commands.add_parser("explain", help="draw where the model looks in an image"))
    add_inspect(commands.add_parser("inspect", help="print what a checkpoint is"))
    add_convert(commands.add_parser("convert", help="write a checkpoint that describes itself"))
    add_evaluate(commands.add_parser("evaluate", help="measure a checkpoint on labelled images"))
    add_bench(commands.add_parser("bench", help="measure a server under load"))
    return parser


def add_serve(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"Serve a checkpoint. Each flag is also an environment variable: --max-batch-size is "
        f"{ENV_PREFIX}MAX_BATCH_SIZE. Flags win."
    )
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f" [{field.default}]"
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            metavar=name.rpartition("_")[2].upper(),
            help=f"{field.description}{default}".replace("%", "%%"),
        )
    parser.set_defaults(command=serve_command)


def serve_command(args: argparse.Namespace) -> int:
    settings = read_settings(
        **{name: getattr(args, name) for name in Settings.model_fields if hasattr(args, name)}
    )
    settings = follow_cloud(settings, os.environ)
    complain(*unknown_variables())

    gc.disable()  # until the model is there: a tenth of the time to import and load
    with without_opentelemetry(os.environ):
        from app.logs import set_up_logs
        from app.server import serve

    set_up_logs(settings.log_level, settings.log_format)
    leave(serve(settings))


def add_key(parser: argparse.ArgumentParser) -> None:
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


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", type=Path, help="class names, one a line or JSON")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="pixels a side, where positions fit any grid"
    )
    parser.add_argument(
        "--preprocess", metavar="JSON", help='preprocessing that differs: {"crop_pct": 0.875}'
    )
    parser.add_argument(
        "--hyperparameters",
        metavar="JSON",
        help='what the weights do not tell: {"tokens_norm": true}',
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        default="auto",
        choices=["auto", "torch", "openvino"],
        help="who runs the forward pass [auto]",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps [auto]")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="arithmetic of the forward pass [auto]",
    )


def add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--checkpoint", help=f"{CHECKPOINT}; the bundled one if absent")
    parser.add_argument("--top-k", type=int, metavar="N", help="classes an image [5, or all]")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_device_options(parser)
    add_checkpoint_options(parser)
    parser.add_argument(
        "--url", metavar="URL", help="server that classifies them, instead of a checkpoint here"
    )
    add_server_options(parser)
    parser.set_defaults(command=predict_command)


def predict_command(args: argparse.Namespace) -> int:
    check_where(args)
    if args.url is None:
        from app.offline import predict_files

        return predict_files(args)
    with extra("client"):
        from app.remote import predict_files as predict_remotely

    return predict_remotely(args)


def check_where(args: argparse.Namespace) -> None:
    """Raises `SettingsError` for a flag that means nothing to who classifies."""
    here, there = argparse.ArgumentParser(), argparse.ArgumentParser()
    here.add_argument("--checkpoint")
    add_device_options(here)
    add_checkpoint_options(here)
    add_server_options(there)
    idle = there if args.url is None else here
    for name, default in vars(idle.parse_args([])).items():
        if getattr(args, name) != default:
            flag = f"--{name.replace('_', '-')}"
            hint = "a server: name it by --url" if idle is there else "a model here, not at --url"
            raise SettingsError(f"{flag} is for {hint}")


def add_server_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--api-key", metavar="KEY", help=f"to show to the server [{CLIENT_KEY}]")
    parser.add_argument(
        "--timeout", metavar="SECONDS", help="for the server to answer a request [30]"
    )
    parser.add_argument("--concurrency", metavar="N", help="requests under way at once [8]")


def add_explain(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw what the class token attends to, in the last layer that has one, over the image as "
        "the model crops it."
    )
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("output", type=Path, metavar="OUTPUT.png")
    parser.add_argument("--head", type=int, metavar="N", help="of the attention, from 0 [mean]")
    parser.add_argument("--checkpoint", help=f"{CHECKPOINT}; the bundled one if absent")
    add_checkpoint_options(parser)
    parser.set_defaults(command=explain_command)


def explain_command(args: argparse.Namespace) -> int:
    from app.offline import explain_file

    return explain_file(args)


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    add_checkpoint_options(parser)
    parser.set_defaults(command=inspect_command)


def inspect_command(args: argparse.Namespace) -> int:
    from app.offline import inspect_checkpoint

    return inspect_checkpoint(args)


def add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("output", type=Path, metavar="OUTPUT.safetensors")
    parser.add_argument("--name", help="name of the model; the file's if absent")
    parser.add_argument("--version", help="version of the model")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16", "float16"],
        help="of the weights on disk; half the size at 16 bits [float32]",
    )
    add_checkpoint_options(parser)
    parser.set_defaults(command=convert_command)


def convert_command(args: argparse.Namespace) -> int:
    from app.offline import convert_checkpoint

    return convert_checkpoint(args)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure accuracy and calibration on images in folders named after their class, by label "
        "or synset. Of a folder or tar with train/ and test/ (or val/), the test images count."
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("data", type=Path, metavar="DIR", help="image folder, or a tar of one")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_device_options(parser)
    add_checkpoint_options(parser)
    parser.set_defaults(command=evaluate_command)


def evaluate_command(args: argparse.Namespace) -> int:
    from app.offline import evaluate_checkpoint

    return evaluate_checkpoint(args)


def add_bench(parser: argparse.ArgumentParser) -> None:
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
