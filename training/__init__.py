"""Training: recipes, data and optimisers. Not part of the installed service."""

import sys


def warn(message: str) -> None:
    """Print a warning on stderr."""
    print(f"warning: {message}", file=sys.stderr, flush=True)
