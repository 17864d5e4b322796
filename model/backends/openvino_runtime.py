"""Importing OpenVINO without its telemetry, which fails to import if there is no home directory."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["openvino"]

TELEMETRY = "openvino_telemetry"


@contextmanager
def hidden(module: str) -> Iterator[None]:
    """Make a module that is not imported yet appear not to be installed."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


with hidden(TELEMETRY):  # OpenVINO then uses a stub
    import openvino
