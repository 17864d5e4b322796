"""Servers started as users start them: as a process, on a port, stopped by a signal."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.cli.main import main
from tests.server_process import SERVE, Server, start_server_process

HERE = Path(__file__).parent
SLOW_SERVICE = ("-m", "tests.e2e.slow_service")


@pytest.hookimpl(tryfirst=True)  # before tests are selected by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave end-to-end tests to ``make test-all``, except those marked ``quick``."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("e2e")
            if not item.get_closest_marker("quick"):
                item.add_marker("thorough")


StartServer = Callable[..., Server]
Run = Callable[..., tuple[int, str, list[str]]]


def with_quick(names: Iterable[str], *quick: str) -> list[object]:
    """The names as parameters of a test, some of them marked ``quick``."""
    names = list(names)
    assert set(quick) <= set(names)
    return [pytest.param(n, marks=pytest.mark.quick) if n in quick else n for n in names]


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

    def start(*command: str, **settings: Any) -> Server:
        log = tmp_path_factory.mktemp("server") / "log"
        server = start_server_process(command or SERVE, log, **settings)
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()
