"""``xcit-serve bench``: measure a server under load."""

import argparse
from pathlib import Path

from app.cli.options import add_server_options, extra
from app.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Measure a server under load. A closed loop keeps N requests in flight. An open loop sends "
        "R requests per second at random times, whatever the server does, and measures latency "
        "from the time at which a request was due, so that a stall shows in every request it "
        "delays. Several loads are measured one after the other."
    )
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="[a generated photo]")
    parser.add_argument(
        "--url", required=True, metavar="URL", help="server to measure, such as http://HOST:8000"
    )
    parser.add_argument(
        "--rate", metavar="R,...", help="requests per second of each open loop, at most 10,000"
    )
    parser.add_argument("--seconds", default="10", help="duration of each load [10]")
    parser.add_argument(
        "--warmup",
        default="1",
        metavar="SECONDS",
        help="duration of the warm-up before each load [1]",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write a plot of latencies")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results as JSON")
    add_server_options(parser)


def run(args: argparse.Namespace) -> int:
    with extra("client"):
        from app.cli.load_test import run_bench

    return run_bench(args)
