"""The engine and the HTTP workers of `tests.e2e.slow_service`, each a process."""

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from app.observability.otel_environment import without_opentelemetry
from app.processes.child import begin


def main(role: str, text: str) -> NoReturn:
    """As `app.processes.__main__`, with the slow classifier."""
    child = begin(text)
    if role == "engine":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        from app.processes.engine_process import run_engine
        from tests.e2e.slow_service import SlowSlotClassifier

        run_engine(child, lambda settings, cores: SlowSlotClassifier(settings.max_batch_size or 16))
    with without_opentelemetry(os.environ):
        from app.processes.worker_process import run_worker
    from tests.e2e.slow_service import SlowPreparer, follow_variables

    def prepare(spec: Mapping[str, Any], max_pixels: int) -> SlowPreparer:
        return SlowPreparer()

    follow_variables()
    run_worker(child, prepare)


if __name__ == "__main__":
    main(*sys.argv[1:])
