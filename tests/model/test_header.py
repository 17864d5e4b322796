"""Changing the metadata of a checkpoint without touching its weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from torch import Tensor

from model.checkpoint import read_checkpoint, rewrite_metadata, write_checkpoint
from model.errors import CheckpointError
from model.metadata.description import self_description
from model.spec import ModelSpec
from model.weights.container import METADATA_KEY

State = dict[str, Tensor]


def tensor_bytes(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


@pytest.fixture
def path(tmp_path: Path, spec: ModelSpec, state: State) -> Path:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, spec, state)
    return path


@pytest.mark.parametrize("name", ["x", "größer, and of another length"])
def test_new_description_leaves_the_weights_byte_for_byte(
    path: Path, spec: ModelSpec, name: str
) -> None:
    before = tensor_bytes(path)
    changed = replace(spec, name=name)
    rewrite_metadata(path, path, {METADATA_KEY: self_description(changed)})
    assert tensor_bytes(path) == before
    assert read_checkpoint(path).spec == changed
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0, "tensors stay aligned"
    assert path.stat().st_mode & 0o777 == 0o644


def test_entries_are_added_removed_and_otherwise_kept(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    before = metadata_of(path)
    rewrite_metadata(path, other, {"note": '"quoted" ü', "more": "1"})
    assert metadata_of(other) == {**before, "note": '"quoted" ü', "more": "1"}
    rewrite_metadata(other, other, {"more": None, "absent": None})
    assert metadata_of(other) == {**before, "note": '"quoted" ü'}
    assert metadata_of(path) == before


def test_failed_rewrite_leaves_the_old_file(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"its header would have .* bytes; at most"):
        rewrite_metadata(path, path, {"note": "x" * 9 * 2**20})
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"PK\x03\x04" + b"0" * 40, b"\x02" + b"\0" * 7 + b"[]", b"\xff" * 16),
        b"\x13" + b"\0" * 7 + json.dumps({"__metadata__": 3}).encode() + b" ",
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{path}: not a safetensors file$"):
        rewrite_metadata(path, path, {"note": "1"})
    assert path.read_bytes() == content


def test_message_names_the_file_that_fails(path: Path, tmp_path: Path) -> None:
    absent, below_file = tmp_path / "absent.safetensors", path / "new.safetensors"
    with pytest.raises(CheckpointError, match=f"^{absent}: cannot be read: No such file"):
        rewrite_metadata(absent, path, {})
    with pytest.raises(CheckpointError, match=f"^{below_file}: cannot be written: Not a directory"):
        rewrite_metadata(path, below_file, {})
