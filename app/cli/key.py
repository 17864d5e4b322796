"""``xcit-serve key``: make an API key."""

import argparse

from app.cli.output import show
from app.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    parser.description = (
        "Make an API key for a client. Prints the key, and the line to add to XCIT_API_KEYS_FILE, "
        "which holds only a hash of the key."
    )
    parser.add_argument("name", metavar="NAME", help="name of the client in logs and metrics")


def run(args: argparse.Namespace) -> int:
    from app.http.api_keys import new_key

    key, line = new_key(args.name)
    show(f"key:  {key}", f"line: {line}")
    return 0
