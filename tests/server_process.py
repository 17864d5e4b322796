"""A server started as users start it: as a process, on a port, stopped by a signal."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
PATIENCE = 60  # seconds for what should take far less, on a slow and busy machine
PHOTO = (ROOT / "examples" / "ship.jpg").read_bytes()
SERVE = ("-m", "app", "serve")
WORKERS = int(os.environ.get("XCIT_TEST_WORKERS", "0"))  # HTTP workers of end-to-end tests


@dataclass
class Server:
    """A server process and a client of it."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_ready(self) -> None:
        limit = time.monotonic() + PATIENCE
        while not self.is_ready():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit, self.log.read_text()
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def post(self, body: bytes) -> httpx.Response:
        return self.client.post("/predict", content=body)

    def predict(self, client: httpx.Client | None = None) -> httpx.Response:
        return (client or self.client).post(f"{self.url}/predict", content=PHOTO)

    def cpu_seconds(self) -> float:
        """CPU time that all threads of all processes have used so far."""
        return sum(map(cpu_seconds, self.processes()))

    def memory(self, entry: str = "VmRSS") -> int:
        """Bytes of all processes according to ``/proc``: VmRSS for now, VmHWM for the peak."""
        return sum(memory(process, entry) for process in self.processes())

    def forget_peak(self) -> int:
        """Reset the peak to the resident bytes, and return these."""
        for process in self.processes():
            (process / "clear_refs").write_text("5")
        return self.memory()

    def metrics(self) -> dict[str, float]:
        """The values of all metrics by their names with labels."""
        lines = self.client.get("/metrics").text.splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def metric(self, name: str) -> float:
        return self.metrics()[name]

    def inflight(self) -> int:
        """Admitted requests that are not yet answered."""
        return int(self.metric("xcit_inflight_requests"))

    def threads(self) -> int:
        return sum(len(list((process / "task").iterdir())) for process in self.processes())

    def processes(self) -> list[Path]:
        """Where ``/proc`` describes the process and its children."""
        parent = Path(f"/proc/{self.process.pid}")
        children = [
            Path("/proc") / number
            for thread in (parent / "task").iterdir()
            for number in (thread / "children").read_text().split()
        ]
        return [parent, *children]

    def roles(self) -> dict[str, int]:
        """Process ids of engines and workers, by role and number."""
        found = {}
        for process in self.processes()[1:]:
            try:
                *_, role, inherited, _ = (process / "cmdline").read_bytes().decode().split("\0")
            except (OSError, ValueError):  # it has ended, or is about to become a child of ours
                continue
            if role in ("engine", "worker"):
                found[f"{role} {json.loads(inherited)['number']}"] = int(process.name)
        return found

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(with_signal)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Kill the process if it still runs."""
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def start_server_process(
    command: Sequence[str],
    log: Path,
    *,
    wait: bool = True,
    keep_alive: bool = True,
    **settings: Any,
) -> Server:
    """Start a server that accepts any host.

    It has one stream, because measuring how many are best takes half of the start.

    Args:
        log: the file for its log.
        wait: whether to wait until it is ready.
        keep_alive: whether its client uses a connection more than once.
    """
    port = int(settings.pop("port", free_port()))
    chosen = {"port": port, "drain_delay_s": 0, "allowed_hosts": "*", "streams": 1} | settings
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment(**chosen),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    limits = httpx.Limits(max_keepalive_connections=None if keep_alive else 0)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, limits=limits)
    server = Server(process, client, port, log)
    if wait:
        try:
            server.wait_ready()
        except BaseException:
            server.kill()
            raise
    return server


def cpu_seconds(process: Path) -> float:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(process: Path, entry: str) -> int:
    lines = (process / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{entry}:"))
    return int(line.split()[1]) * 1024


def environment(**settings: object) -> dict[str, str]:
    """This process's environment, with these settings only, and as many workers as are tested."""
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("XCIT_")}
    settings = ({"http_workers": WORKERS} if WORKERS else {}) | settings
    given = {name: value for name, value in settings.items() if value is not None}
    return inherited | {f"XCIT_{name.upper()}": str(value) for name, value in given.items()}


def wait_for(condition: Callable[[], object], what: str = "", seconds: float = PATIENCE) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
