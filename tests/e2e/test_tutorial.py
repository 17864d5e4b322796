"""Run the tutorial from its first command to its last.

The commands for Docker are left out, and the signal is sent to the server that the test started.
Alerts are tested in `tests.e2e.test_monitoring`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT, TUTORIAL, blocks, read_blocks
from tests.server_process import PATIENCE, Server

from .conftest import StartServer
from .test_documents import curl

pytestmark = [pytest.mark.one_process("about the tutorial"), pytest.mark.slow]

SERVE = "xcit-serve serve "
OTHERS = (
    "make install",
    "source ",
    "docker ",
    "curl localhost:9090",
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A working directory like the reader's, with the files that the tutorial saves."""
    (tmp_path / "model").symlink_to(ROOT / "model")
    for block in read_blocks(TUTORIAL):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
    return tmp_path


def commands() -> Iterator[str]:
    for block in blocks("console", TUTORIAL):
        yield from block.commands()


def test_the_tutorial_trains_serves_and_replaces_a_model(
    clone: Path, start_server: StartServer
) -> None:
    server: Server | None = None
    printed: dict[str, str] = {}
    for command in commands():
        if command.startswith(SERVE):
            _, _, checkpoint = command.partition("--checkpoint ")
            server = start_server(checkpoint=clone / checkpoint, cache_dir="")
        elif "SIGHUP" in command and server:
            server.process.send_signal(signal.SIGHUP)
        elif not any(words in command for words in OTHERS):
            printed[command] = run(command, clone, server)

    assert server
    assert float(of(printed, "xcit-serve train").split()[-1]) > 0.9
    answer = json.loads(of(printed, "curl"))
    assert answer["model"] == {"name": "shapes", "version": "1"}
    assert {row["label"] for row in answer["predictions"]} == {"circle", "square", "triangle"}
    assert "images/s" in of(printed, "bench")
    wait_for_version("2", server, (clone / "images/test/circle/000.png").read_bytes())
    assert server.stop() == 0


def of(printed: dict[str, str], program: str) -> str:
    """Return the output of the only command of a program."""
    (output,) = (output for command, output in printed.items() if f"{program} " in command)
    return output


def run(command: str, clone: Path, server: Server | None) -> str:
    """Run a command and return its output."""
    if command.startswith("curl "):
        assert server
        return curl(command, clone, server)
    if server:
        command = command.replace("localhost:8000", f"127.0.0.1:{server.port}")
    programs = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", command.replace("--seconds 30", "--seconds 1")],
        cwd=clone,
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(clone),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def wait_for_version(version: str, server: Server, image: bytes) -> None:
    """Wait until this version answers; the old version answers until then."""
    limit = time.monotonic() + PATIENCE
    while server.post(image).raise_for_status().json()["model"]["version"] != version:
        assert time.monotonic() < limit, server.log.read_text()
