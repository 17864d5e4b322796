"""Servers started as users start them: as a process, on a port, stopped by a signal."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from app.cli.main import main

ROOT = Path(__file__).parents[2]
PATIENCE = 60  # seconds for what should take far less, on a slow and busy machine

HERE = Path(__file__).parent
SERVE = ("-m", "app", "serve")
SLOW_SERVICE = ("-m", "tests.e2e.slow_service")
WORKERS = int(os.environ.get("XCIT_TEST_WORKERS", "0"))  # HTTP workers of the servers


@pytest.hookimpl(tryfirst=True)  # before tests are selected by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave end-to-end tests to ``make test-all``, except those marked ``quick``."""
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("quick"):
            item.add_marker("thorough")


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

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(with_signal)
        return self.process.wait(PATIENCE)


StartServer = Callable[..., Server]
Run = Callable[..., tuple[int, str, list[str]]]


def cpu_seconds(process: Path) -> float:
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(process: Path, entry: str) -> int:
    lines = (process / "status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{entry}:"))
    return int(line.split()[1]) * 1024


def with_quick(names: Iterable[str], *quick: str) -> list[object]:
    """The names as parameters of a test, some of them marked ``quick``."""
    names = list(names)
    assert set(quick) <= set(names)
    return [pytest.param(n, marks=pytest.mark.quick) if n in quick else n for n in names]


def environment(**settings: object) -> dict[str, str]:
    """This process's environment, with these settings only, and as many workers as are tested."""
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("XCIT_")}
    settings = ({"http_workers": WORKERS} if WORKERS else {}) | settings
    given = {name: value for name, value in settings.items() if value is not None}
    return inherited | {f"XCIT_{name.upper()}": str(value) for name, value in given.items()}


def wait_for(condition: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, f"not in {PATIENCE} s: {what}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start a server that accepts any host, and wait until it is ready. It is killed at the end.

    It has one stream, because measuring how many are best takes half of the start.
    """
    with starting(tmp_path_factory) as start:
        yield start


@pytest.fixture(scope="session")
def bundled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with default settings and the bundled checkpoint, shared by all tests."""
    with starting(tmp_path_factory) as start:
        yield start(streams=None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``xcit-serve`` in this process; returns exit code, stdout and lines of stderr."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err.splitlines()

    return call


@contextmanager
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """A function that starts servers; they are killed at the end."""
    started: list[Server] = []

    def start(*command: str, wait: bool = True, **settings: Any) -> Server:
        port = int(settings.pop("port", free_port()))
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, *(command or SERVE)],
                cwd=ROOT,
                env=environment(
                    **{"port": port, "drain_delay_s": 0, "allowed_hosts": "*", "streams": 1}
                    | settings
                ),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        server = Server(
            process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30), port, log
        )
        started.append(server)
        if wait:
            server.wait_ready()
        return server

    yield start
    for server in started:
        server.client.close()
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()


@dataclass
class Done:
    """Exit code and output of a finished command."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def xcit_serve(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``xcit-serve`` with the given arguments in this process, where it starts at once."""
    monkeypatch.setenv("XCIT_BACKEND", "torch")
    monkeypatch.setenv("XCIT_STREAMS", "2")

    def run(*arguments: object) -> Done:
        threads = torch.get_num_threads()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            torch.set_num_threads(threads)
        return Done(code, *capsys.readouterr())

    return run
