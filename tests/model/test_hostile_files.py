"""What a weight file costs is bounded by its own size, and it ends in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .hostile_files import FILES, write

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
ALLOWANCE = 96 * 2**20  # bytes beside the file's own, for what any file takes
TIMES = 4  # the file's size
READ = """
import json, sys
from pathlib import Path
from model.checkpoint import read_checkpoint
from model.errors import CheckpointError

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before = resident("VmRSS")
    try:
        read_checkpoint(path)
        told = None
    except CheckpointError as error:
        told = str(error)
    print(json.dumps([path, told, resident("VmHWM") - before]), flush=True)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, int, int]]:
    """What is said of each file, the peak of memory and the file's size, in one process."""
    paths = {}
    for name in FILES:
        paths[str(write(name, tmp_path_factory.mktemp("hostile")))] = name
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for line in done.stdout.splitlines():
        path, told, peak = json.loads(line)
        found[paths[path]] = (told and told.removeprefix(path), peak, Path(path).stat().st_size)
        Path(path).unlink()
    return found


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_cost_no_more_than_they_hold(
    answers: dict[str, tuple[str | None, int, int]], name: str
) -> None:
    told, peak, size = answers[name]
    assert told is not None
    assert told.startswith(": ")
    assert told.isprintable()
    assert len(told) < 500
    assert peak < ALLOWANCE + TIMES * size, f"{peak / 2**20:.0f} MiB for {size / 2**20:.1f}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("deflated pickle", "its entry 'archive/data.pkl' is compressed or encrypted"),
        ("sparse", "key 'head.weight' is a sparse tensor"),
        ("stride 0", "key 'head.weight' is a tensor that uses the same numbers in several places"),
        ("shared", "its tensors use the same numbers in several places"),
        ("metadata nested", "JSON that is nested too deep"),
        ("metadata depth", "depth is 1000000000, from metadata; the weights have 2"),
        ("metadata dim", "dim is 1000000000000000000, from metadata; the weights have 24"),
        ("metadata list", "depth is a list of 1000, from metadata; not a number"),
        ("layer 999999999", "key 'blocks.999999999.norm1.weight' is unknown"),
        ("many layers", "blocks; at most 200 are taken"),
        ("no numbers, many classes", "key 'head.weight' holds no numbers"),
        ("header announced", "truncated or corrupt safetensors file"),
        ("header of 20 MB", "its safetensors header has 20971"),
        ("bytearray", "no tensors, but Python objects (builtins.bytearray)"),
        ("many entries", "truncated or corrupt PyTorch file"),
        ("many paths", "holds over 20,000 tensors; save the weights alone"),
        ("many long paths", "no tensors"),
        ("many tensors", "holds over 20,000 tensors"),
        ("many small tensors", "holds over 20,000 tensors"),
        ("many networks", "holds 5000 networks"),
        ("arguments", "image_size is 1000000000; it must be a whole number from 1 to 2048"),
        ("scalar", "cls_token has shape (), which has too few dimensions"),
        ("heads", "dim 64 must be a multiple of heads 100000"),
        ("plain pickle", "a Python pickle that torch.save did not write"),
    ],
)
def test_hostile_files_are_named(
    answers: dict[str, tuple[str | None, int, int]], name: str, message: str
) -> None:
    assert message in str(answers[name][0])
