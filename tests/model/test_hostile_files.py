"""Reading a hostile weight file takes bounded memory and ends in a one-line error."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .hostile_files import FILES, write

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
ALLOWANCE = 96 * 2**20  # bytes that any file may take
TIMES = 4  # multiple of the file's size
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
    """The message, the peak memory and the size of each file, read in one process."""
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
def test_memory_for_hostile_files_is_bounded_by_their_size(
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
        ("stride 0", "key 'head.weight' is a tensor whose elements overlap in memory"),
        ("shared", "its tensors share the same bytes; expected one copy of each"),
        ("metadata nested", "JSON is nested too deeply"),
        ("metadata depth", "depth is 1000000000, from metadata; the weights have 2"),
        ("metadata dim", "dim is 1000000000000000000, from metadata; the weights have 24"),
        ("metadata list", "depth is a list of 1000, from metadata; not a number"),
        ("layer 999999999", "key 'blocks.999999999.norm1.weight' is unknown"),
        ("many layers", "blocks; at most 200 are allowed"),
        ("no numbers, many classes", "key 'head.weight' holds no numbers"),
        ("header announced", "truncated or corrupt safetensors file"),
        ("header of 20 MB", "its safetensors header has 20971"),
        ("bytearray", "no tensors, only Python objects (builtins.bytearray)"),
        ("many entries", "truncated or corrupt PyTorch file"),
        ("many paths", "it has over 20,000 tensors; save only the weights"),
        ("many long paths", "no tensors"),
        ("many tensors", "it has over 20,000 tensors"),
        ("many small tensors", "it has over 20,000 tensors"),
        ("many networks", "it has 5000 networks"),
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
