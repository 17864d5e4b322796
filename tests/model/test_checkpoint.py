"""Weight files: reading, writing and inferring descriptions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint import read_checkpoint, write_checkpoint
from model.errors import CheckpointError
from model.families.xcit import XCiT
from model.metadata.description import Overrides
from model.spec import IMAGENET_MEAN, ModelSpec

from .conftest import HYPERPARAMETERS

Save = Callable[[object], Path]
State = dict[str, Tensor]


def test_self_describing_form_survives_a_round_trip(
    tmp_path: Path, spec: ModelSpec, network: XCiT, state: State
) -> None:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, spec, state)
    checkpoint = read_checkpoint(path)
    assert checkpoint.spec == spec
    assert checkpoint.self_describing
    assert path.stat().st_mode & 0o777 == 0o644
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(checkpoint.build()(images), network(images))


def test_failed_write_leaves_the_old_file(tmp_path: Path, spec: ModelSpec, state: State) -> None:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, spec, state)
    before = path.read_bytes()
    shared = {**state, "a": state["cls_token"], "b": state["cls_token"]}
    with pytest.raises((CheckpointError, RuntimeError)):
        write_checkpoint(path, spec, shared)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_directory_is_named(tmp_path: Path, spec: ModelSpec, state: State) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "small.safetensors"
    with pytest.raises(CheckpointError, match=f"^{path}: cannot be written: Not a directory$"):
        write_checkpoint(path, spec, state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    ],
    ids=["bare", "model", "state_dict", "module.", "model and both prefixes"],
)
def test_raw_state_dict_is_described_by_inference(
    save: Save, state: State, network: XCiT, wrap: Callable[[State], object]
) -> None:
    checkpoint = read_checkpoint(save(wrap(state)))
    assert dict(checkpoint.spec.hyperparameters) == HYPERPARAMETERS
    assert checkpoint.spec.labels == ("class_0", "class_1", "class_2")
    assert checkpoint.spec.preprocess.image_size == 16
    assert checkpoint.spec.preprocess.interpolation == "bicubic"
    assert checkpoint.spec.preprocess.mean == IMAGENET_MEAN
    assert not checkpoint.self_describing
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(checkpoint.build()(images), network(images))


def test_raw_safetensors_is_described_by_inference(tmp_path: Path, state: State) -> None:
    path = tmp_path / "raw.safetensors"
    save_file(state, path)
    assert dict(read_checkpoint(path).spec.hyperparameters) == HYPERPARAMETERS


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 3, "cls_depth": 2},
        {"cls_depth": 0},
        {"local_patch_kernel_size": 7},
        {"heads": 3, "dim_head": 5},
        {"patch_size": 2},
    ],
    ids=str,
)
def test_every_hyperparameter_is_inferred(save: Save, changes: dict[str, int]) -> None:
    expected = HYPERPARAMETERS | changes
    state = XCiT(**expected).state_dict()
    assert dict(read_checkpoint(save(state)).spec.hyperparameters) == expected


def test_half_precision_weights_are_read_as_32_bits(save: Save, state: State) -> None:
    halves = {key: v.half() if v.is_floating_point() else v for key, v in state.items()}
    checkpoint = read_checkpoint(save(halves))
    assert checkpoint.state["cls_token"].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "ant\nbee\ncat\n"),
        ("weights.labels.txt", "ant\nbee\ncat"),
        ("labels.json", '["ant", "bee", "cat"]'),
        ("labels.json", '{"0": "ant", "2": "cat", "1": "bee"}'),
    ],
)
def test_labels_are_read_from_a_sidecar(save: Save, state: State, name: str, content: str) -> None:
    path = save(state)
    path.with_name(name).write_text(content)
    assert read_checkpoint(path).spec.labels == ("ant", "bee", "cat")


def test_preprocessing_is_read_from_a_sidecar_and_overridden_by_settings(
    save: Save, state: State
) -> None:
    path = save(state)
    path.with_name("preprocess.json").write_text('{"crop_pct": 0.5, "std": [1, 1, 1]}')
    preprocess = read_checkpoint(path, Overrides(preprocess={"crop_pct": 0.75})).spec.preprocess
    assert (preprocess.crop_pct, preprocess.std) == (0.75, (1, 1, 1))


def test_labels_override_those_of_the_file(tmp_path: Path, spec: ModelSpec, state: State) -> None:
    path, labels = tmp_path / "small.safetensors", tmp_path / "mine.txt"
    write_checkpoint(path, spec, state)
    labels.write_text("x\ny\nz\n")
    assert read_checkpoint(path, Overrides(labels=labels)).spec.labels == ("x", "y", "z")
