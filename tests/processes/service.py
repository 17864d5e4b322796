"""Services with several processes, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.server_process import Server, start_server_process


def gone(processes: Sequence[int]) -> bool:
    return not any(Path(f"/proc/{process}").exists() for process in processes)


def start(tmp_path: Path, module: str = "app", **settings: Any) -> Server:
    """Start a service with two workers, whose client opens a connection per request."""
    settings = {"http_workers": 2} | settings
    command = ("-m", module, "serve")
    return start_server_process(command, tmp_path / "log", keep_alive=False, **settings)
