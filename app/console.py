"""What a command has to say besides its result."""

import os
import sys
from typing import NoReturn


def complain(*lines: str, code: int = 1) -> int:
    """Say what is wrong on stderr, a line each; the exit code to end with."""
    for line in lines:
        print(f"xcit-serve: {line}", file=sys.stderr)
    return code


def show(*lines: str) -> None:
    """Print a result, a line each."""
    for line in lines:
        print(line)


def leave(failure: str | None) -> NoReturn:
    """End the process, with code 1 and a reason if it failed; no thread that hangs can keep it."""
    code = complain(failure) if failure else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
