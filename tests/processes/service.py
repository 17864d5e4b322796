"""A running service with several processes, for tests."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
PHOTO = (ROOT / "examples" / "ship.jpg").read_bytes()
WAIT = 60.0  # seconds for what takes one on a quiet machine


class Service:
    """A running service with its log."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.log = log

    def children(self) -> dict[str, int]:
        """Process ids of engines and workers, by role and number."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                *_, role, inherited, _ = path.read_bytes().decode().split("\0")
            except (OSError, ValueError):
                continue
            if role in ("engine", "worker"):
                content = json.loads(inherited)
                if content["parent"] == self.process.pid:
                    found[f"{role} {content['number']}"] = int(path.parent.name)
        return found

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=WAIT).text
        match = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(match[1]) if match else 0.0

    def post(self, body: bytes) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", content=body, timeout=WAIT)

    def predict(self, client: httpx.Client | None = None) -> httpx.Response:
        if client is None:
            return self.post(PHOTO)
        return client.post(f"{self.url}/predict", content=PHOTO, timeout=WAIT)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(WAIT)


def wait_for(condition: Callable[[], object], seconds: float = WAIT) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def gone(processes: Sequence[int]) -> bool:
    return not any(Path(f"/proc/{process}").exists() for process in processes)


def start(tmp_path: Path, module: str = "app", **settings: object) -> Service:
    """Start a service with two workers, and wait until it is ready.

    Each engine has one stream, because measuring how many are best takes half of the start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {name: text for name, text in os.environ.items() if not name.startswith("XCIT_")}
    choices = {"http_workers": 2, "port": port, "drain_delay_s": 0, "streams": 1, **settings}
    variables |= {f"XCIT_{name.upper()}": str(value) for name, value in choices.items()}
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "serve"], cwd=ROOT, env=variables, stderr=file
        )
    service = Service(process, port, log)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{service.url}/readyz", timeout=WAIT).is_success
        except httpx.TransportError:
            return False

    wait_for(ready)
    return service
