"""Every program, curl command and query of the documents works on a real server."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.documents import ROOT, TUTORIAL, Block, blocks
from tests.server_process import Server, free_port

from .conftest import StartServer
from .prometheus import promtool

pytestmark = pytest.mark.one_process("about the documents")

PROGRAMS = [block for block in blocks("python") if block.title is None]
CURLS = [
    (block, command)
    for block in blocks("console")
    for command in block.commands()
    if "curl " in command and block.document != TUTORIAL
]
QUERIES = blocks("promql")


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    return start_server()


@pytest.fixture(scope="module")
def vertex(start_server: StartServer) -> Server:
    """A server for Vertex AI; the documents use port 8080 for it."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIP_HTTP_PORT", str(port))
        return start_server(cloud="vertex", port=port)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with photos and with files that are not images."""
    noise = Image.effect_noise((90, 60), 90)
    photo = Image.merge("RGB", (noise, Image.linear_gradient("L").resize((90, 60)), noise))
    (tmp_path / "photos").mkdir()
    for name in ("dog", "cat", "photos/a", "photos/b"):
        photo.save(tmp_path / f"{name}.jpg")
    for name in ("notes.txt", "photos/c.jpg"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_every_program_runs_and_prints_something(
    server: Server, folder: Path, block: Block
) -> None:
    assert "localhost:8000" in block.text
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            block.text.replace("localhost:8000", address(server)),
        ],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or (folder / "looked.png").exists()


@pytest.mark.parametrize(("block", "command"), CURLS, ids=str)
def test_every_curl_command_gets_an_answer_of_the_shown_shape(
    request: pytest.FixtureRequest, folder: Path, block: Block, command: str
) -> None:
    target: Server = request.getfixturevalue("vertex" if "localhost:8080" in command else "server")
    answer = json.loads(curl(command, folder, target))
    if shown := block.output():
        assert shape(answer) == shape(json.loads(shown))


@pytest.mark.parametrize("block", QUERIES, ids=str)
def test_every_query_is_valid_and_uses_existing_metrics(
    server: Server, tmp_path: Path, block: Block
) -> None:
    rules = {"groups": [{"name": "documents", "rules": [{"record": "query", "expr": block.text}]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    promtool("check", "rules", str(tmp_path / "rules.yml"))
    metrics = server.client.get("/metrics").text
    for name in re.findall(r"\b(?:xcit|process)_\w+", block.text):
        assert re.search(rf"^{name}\b", metrics, re.MULTILINE), name


def curl(command: str, folder: Path, server: Server) -> str:
    """Run a command with the server's address instead of ports 8000 and 8080; return its output."""
    command = re.sub(r"localhost:80[08]0", address(server), command)
    done = subprocess.run(
        ["bash", "-c", command.replace("curl ", "curl --silent --show-error --fail-with-body ", 1)],
        cwd=folder,
        env=os.environ | {"NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def address(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


def shape(value: object) -> object:
    """Replace the values of an answer by their types, because values differ between images."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value)
