"""Warnings of a training run, on stderr."""

import sys


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
