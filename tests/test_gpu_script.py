"""Rehearsals of ``benchmarks/gpu.sh`` and its parts on a machine without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.thorough, pytest.mark.starts_first]

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
PARTS = (
    *("machine", "starting", "inputs", "tests", "workers", "engines", "reloads", "bare", "small"),
    "training",
)


def run_script(out: Path, *, rehearse: bool, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: v for name, v in os.environ.items() if not name.startswith("XCIT_")}
    return subprocess.run(
        [SCRIPT, *(["--rehearse"] if rehearse else []), out],
        env=inherited | {"PYTHON": sys.executable} | variables,
        cwd=out.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def sections(out: Path) -> dict[str, str]:
    """The text of each part by name."""
    _, *parts = (out / "tables.md").read_text().split("\n## ")
    return dict(part.split("\n", 1) for part in parts)


def program(directory: Path, body: str) -> str:
    """A shell program in place of Python."""
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.thorough
def test_every_part_is_rehearsed_without_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run_script(out, rehearse=True)
    assert result.returncode == 0, result.stdout + (out / "log.txt").read_text()
    found = sections(out)
    assert tuple(found) == PARTS
    assert "torch" in found["machine"]
    assert "| xcit-cifar10 |" in found["starting"]
    assert "skipped" in found["tests"]
    assert "| torch, float32" in found["bare"]
    for load in ("photos, closed loop of 2", "tensors, closed loop of 2"):
        assert f"| {load} |" in found["small"]
    assert "open loop" in found["small"]
    assert "--http-workers=2" in found["workers"]
    assert "| photos, closed loop of 2 |" in found["workers"]
    assert "--engines=2" in found["engines"]
    assert "| photos, closed loop of 2 |" in found["engines"]
    assert "| reload 1 |" in found["reloads"]
    assert "epoch 2" in found["training"]
    assert "answered with 200" in found["reloads"]
    assert {path.name for path in out.iterdir()} == {"tables.md", "log.txt", "training"}


def test_failing_part_is_reported_and_the_next_one_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    python = program(tmp_path, 'echo "half a table"; echo "no device" >&2; exit 3')
    result = run_script(out, rehearse=True, PYTHON=python, PARTS="starting bare")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1].startswith("failed: starting bare; see ")
    for name, text in sections(out).items():
        assert text.startswith("\nhalf a table\n")
        assert f"**{name} failed with status 3 after " in text
    assert (out / "log.txt").read_text().count("no device") == 2


@pytest.mark.parametrize("rehearse", [True, False])
def test_hanging_part_is_stopped_and_later_parts_are_skipped(
    tmp_path: Path, rehearse: bool
) -> None:
    out = tmp_path / "out"
    python = program(tmp_path, "trap 'echo so far; exit 130' INT; sleep 60 & wait")
    variables = {"PYTHON": python, "PARTS": "starting bare", "LIMIT": "3"}
    assert run_script(out, rehearse=rehearse, **variables).returncode == 1
    found = sections(out)
    assert "so far\n\n**starting stopped after 3 s, its time limit" in found["starting"]
    assert "**bare not run: the time limit of 3 s is used up" in found["bare"]


def test_tests_that_are_stopped_leave_their_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    dies = "echo 1 passed; trap - INT; kill -INT $$"  # by the signal, as Python may
    python = program(tmp_path, f"trap '{dies}' INT; sleep 60 & wait")
    variables = {"PYTHON": python, "PARTS": "tests", "LIMIT": "5"}
    assert run_script(out, rehearse=True, **variables).returncode == 1
    assert "1 passed\n```\n\n**tests stopped after " in sections(out)["tests"]


def test_several_servers_are_measured_one_after_another(tmp_path: Path) -> None:
    out = tmp_path / "out"
    python = program(tmp_path, 'for each; do echo "$each"; done')
    servers = "\n--streams=1"
    run_script(out, rehearse=True, PYTHON=python, PARTS="small", SERVERS=servers)
    arguments = sections(out)["small"].splitlines()
    assert [each for each in arguments if "--server" in each] == [
        "--server=",
        "--server=--streams=1",
    ]


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    result = run_script(tmp_path / "out", rehearse=True, PARTS="machine smal")
    assert (result.returncode, result.stderr) == (2, "PARTS: unknown part 'smal'\n")


def test_the_script_needs_one_directory(tmp_path: Path) -> None:
    result = subprocess.run([SCRIPT], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == "usage: benchmarks/gpu.sh [--rehearse] OUT_DIR\n"
