"""OpenVINO without its telemetry, which cannot be imported where there is no home directory."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["openvino"]

TELEMETRY = "openvino_telemetry"


@contextmanager
def hidden(module: str) -> Iterator[None]:
    """Let a module that is not imported yet seem not to be installed."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


with hidden(TELEMETRY):  # OpenVINO has a stub in its place
    import openvino
