"""What a command has to say besides its result."""

import sys


def complain(*lines: str, code: int = 1) -> int:
    """Say what is wrong on stderr, a line each; the exit code to end with."""
    for line in lines:
        print(f"xcit-serve: {line}", file=sys.stderr)
    return code
