"""``python -m app.processes``: an engine or a worker, started by the supervisor."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from app.observability.otel_environment import without_opentelemetry
from app.processes.child import begin


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the role that the command line names; each imports only what it needs."""
    role, text = arguments
    child = begin(text)
    if role == "engine":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the supervisor stops engines, after workers
        from app.loading import load_for_engine
        from app.processes.engine_process import run_engine

        run_engine(child, load_for_engine)
    with without_opentelemetry(os.environ):
        from app.preparation import RemotePreparer
        from app.processes.worker_process import run_worker

    run_worker(child, RemotePreparer)


if __name__ == "__main__":
    main(sys.argv[1:])
