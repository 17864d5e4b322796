"""What a training run says on stderr beside its figures."""

import sys


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)
