"""``python -m app.processes``: an engine or a worker, started by the supervisor."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from app.processes.child import Load, Prepare
from app.processes.roles import run_role


def find_load() -> Load:
    from app.loading import load_for_engine

    return load_for_engine


def find_prepare() -> Prepare:
    from app.preparation import RemotePreparer

    return RemotePreparer


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the role that the command line names."""
    run_role(arguments, find_load, find_prepare)


if __name__ == "__main__":
    main(sys.argv[1:])
