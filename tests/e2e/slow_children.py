"""The engine and the HTTP workers of `tests.e2e.slow_service`, each a process."""

import sys
from collections.abc import Mapping
from typing import Any

from app.processes.child import Load, Prepare
from app.processes.roles import run_role


def find_load() -> Load:
    from tests.e2e.slow_service import SlowSlotClassifier

    return lambda settings, cores: SlowSlotClassifier(settings.max_batch_size or 16)


def find_prepare() -> Prepare:
    from tests.e2e.slow_service import SlowPreparer, follow_variables

    def prepare(spec: Mapping[str, Any], max_pixels: int) -> SlowPreparer:
        return SlowPreparer()

    follow_variables()
    return prepare


if __name__ == "__main__":
    run_role(sys.argv[1:], find_load, find_prepare)
