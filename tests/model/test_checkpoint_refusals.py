"""Weight files that are refused: each with one line that names what is wrong."""

import io
import json
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint import read_checkpoint, write_checkpoint
from model.errors import CheckpointError
from model.families.xcit import XCiT
from model.metadata.description import Overrides
from model.spec import ModelSpec

from .conftest import HYPERPARAMETERS
from .test_checkpoint import Save, State


def refusal(path: Path, **overrides: Any) -> str:
    """The message that refuses a file: one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, Overrides(**overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


class Malicious:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/xcit-serve-was-here"),))


def test_pickle_with_code_is_refused_without_running_it(save: Save) -> None:
    message = refusal(save({"model": Malicious()}))
    assert "refused: it contains code" in message
    assert "torch.save(model.state_dict(), path)" in message
    assert not Path("/tmp/xcit-serve-was-here").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_legacy_pickle_with_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "legacy.pt"
    path.write_bytes(pickle.dumps(Malicious()))
    assert str(path) in refusal(path)
    assert not Path("/tmp/xcit-serve-was-here").exists()


def test_training_script_flags_next_to_the_weights_are_allowed(save: Save, state: State) -> None:
    payload = {"model": state, "args": Namespace(lr=0.1), "optimizer": {"state": {}}, "epoch": 3}
    assert dict(read_checkpoint(save(payload)).spec.hyperparameters) == HYPERPARAMETERS


def test_pickled_module_is_refused_with_advice(save: Save, network: XCiT) -> None:
    message = refusal(save(network))
    assert "model.families.xcit.XCiT" in message
    assert "torch.save(model.state_dict(), path)" in message


def zip_of_nothing() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "not weights")
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>not found</html>", "a web page, as after a failed download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x80\x04garbage", "PyTorch file"),
        (b"PK\x03\x04garbage", "truncated or corrupt PyTorch file"),
        (zip_of_nothing(), "a zip archive without PyTorch's data.pkl"),
        (b"\x10\0\0\0\0\0\0\0{garbage", "truncated or corrupt safetensors file"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff{", "truncated or corrupt safetensors file"),
    ],
    ids=["empty", "html", "lfs", "pickle", "zip", "other zip", "safetensors", "huge header"],
)
def test_files_other_than_weights_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    told = refusal(path)
    assert str(path) in told
    assert message in told


def test_missing_file_and_directory_are_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.pt")
    assert "directory" in refusal(tmp_path)


@pytest.mark.parametrize("form", ["pt", "safetensors"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_files_are_named(tmp_path: Path, state: State, form: str, kept: float) -> None:
    path = tmp_path / f"half.{form}"
    if form == "pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert "truncated or corrupt" in refusal(path)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"weight": torch.ones(2)}, "the architecture is unknown"),
        ({}, "expected a dictionary of tensors"),
        ([torch.ones(2)], "the architecture is unknown"),
        ({"model": {"a": 3}}, "no tensors; expected a dictionary of tensors by name"),
    ],
)
def test_payload_without_a_state_dict_is_described(
    save: Save, payload: object, message: str
) -> None:
    assert message in refusal(save(payload))


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("final_norm.bias", None, "key 'final_norm.bias' is missing; expected shape (24,)"),
        ("pos_embedding", None, "key 'pos_embedding' is missing"),
        ("extra.weight", torch.ones(1), "key 'extra.weight' is unknown"),
        ("final_norm.bias", torch.ones(23), "shape (23,); expected torch.float32 of shape (24,)"),
        ("final_norm.bias", torch.ones(24).long(), "torch.int64 of shape (24,)"),
        ("final_norm.bias", torch.full((24,), torch.nan), "'final_norm.bias' holds NaN"),
        ("cls_token", torch.full((24,), torch.inf), "'cls_token' holds NaN or infinity"),
        ("pos_embedding", torch.ones(1, 15, 24), "pos_embedding has size 15; expected grid ** 2"),
        (
            "to_patch_embedding.1.weight",
            torch.ones(47),
            "has size 47; expected 3 * patch_size",
        ),
        ("to_patch_embedding.1.weight", torch.tensor(1.0), "unexpected shapes"),
    ],
)
def test_wrong_tensor_is_named(
    save: Save, state: State, key: str, change: Tensor | None, message: str
) -> None:
    if change is None:
        del state[key]
    else:
        state[key] = change
    told = refusal(save(state))
    assert message in told
    assert "weights.pt" in told


def test_label_count_must_match(save: Save, state: State) -> None:
    path = save(state)
    path.with_name("labels.txt").write_text("one\ntwo\n")
    told = refusal(path)
    assert "labels.txt: 2 labels for the 3 classes" in told


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": 1}, "unknown preprocessing field 'crop'"),
        ({"crop_pct": 2}, "crop_pct is 2; it must be above 0 and at most 1"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'"),
        ({"mean": [0.5]}, "mean must be three numbers"),
        ({"mean": "abc"}, "mean must be three numbers"),
        ({"mean": 3}, "bad preprocessing"),
        ({"std": [1, 0, 1]}, "each channel must be above 0"),
        ({"image_size": 32}, "are learned for 16, so it cannot be changed"),
    ],
)
def test_invalid_preprocessing_is_refused_with_the_reason(
    save: Save, state: State, values: dict[str, Any], message: str
) -> None:
    assert message in refusal(save(state), preprocess=values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format_version is 99; this release reads 1"),
        ({"family": "resnet"}, "family is 'resnet'; known are vit_pytorch, published"),
        ({"hyperparameters": {"dim": 8}}, "dim is 8, from metadata; the weights have 24"),
        (
            {"hyperparameters": HYPERPARAMETERS | {"dims": 8}},
            "unknown hyper-parameter 'dims', from metadata; known are image_size, ",
        ),
        ({"labels": ["a"]}, "1 labels for the 3 classes"),
        ({"preprocess": 3}, "'preprocess' is 3; expected name, version"),
        ({"temperature": 0}, "temperature is 0; it must be a number from 0.05 to 20"),
        ({"temperature": True}, "temperature is true; it must be a number"),
        ({"temperature": "1"}, "'temperature' is '1'; expected name, version"),
        ({"surprise": 1}, "is not the description of a model: 'surprise' is 1"),
    ],
)
def test_contradictory_metadata_is_refused_with_the_reason(
    tmp_path: Path, spec: ModelSpec, state: State, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, spec, state)
    with safe_open(path, "pt") as file:
        document = json.loads(file.metadata()["xcit"])
    save_file(state, path, {"xcit": json.dumps(document | change)})
    assert message in refusal(path)


def test_metadata_that_is_not_json_is_refused(tmp_path: Path, state: State) -> None:
    path = tmp_path / "small.safetensors"
    save_file(state, path, {"xcit": "{"})
    assert "not JSON" in refusal(path)
