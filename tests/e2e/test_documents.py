"""What the documents show, tried on real servers: every program, curl and query in them."""

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

from .conftest import Server, StartServer, free_port
from .test_monitoring import promtool

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
    """As Vertex AI has it, on the port that the documents give as 8080."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIP_HTTP_PORT", str(port))
        return start_server(cloud="vertex", port=port)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a reader would be: with photos, and what is none."""
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
def test_every_program_runs(server: Server, folder: Path, block: Block) -> None:
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
def test_every_curl_is_answered(
    request: pytest.FixtureRequest, folder: Path, block: Block, command: str
) -> None:
    asked: Server = request.getfixturevalue("vertex" if "localhost:8080" in command else "server")
    answer = json.loads(curl(command, folder, asked))
    if shown := block.output():
        assert shape(answer) == shape(json.loads(shown))


@pytest.mark.parametrize("block", QUERIES, ids=str)
def test_every_query_can_be_asked(server: Server, tmp_path: Path, block: Block) -> None:
    rules = {"groups": [{"name": "of-a-document", "rules": [{"record": "it", "expr": block.text}]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    promtool("check", "rules", str(tmp_path / "rules.yml"))
    told = server.client.get("/metrics").text
    for name in re.findall(r"\b(?:xcit|process)_\w+", block.text):
        assert re.search(rf"^{name}\b", told, re.MULTILINE), name


def curl(command: str, folder: Path, server: Server) -> str:
    """What a command prints, of a server where the documents have ports 8000 and 8080."""
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
    """An answer without what differs from image to image."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    return [shape(each) for each in value] if isinstance(value, list) else type(value)
