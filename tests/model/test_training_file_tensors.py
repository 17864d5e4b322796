"""Tensors in training checkpoints that cannot be served, and their errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from app.cli.main import main
from model.checkpoint import read_checkpoint
from model.errors import CheckpointError

from .test_training_files import State
from .test_xcit_published import TINY, network


@pytest.fixture(scope="module")
def published() -> State:
    return dict(network(**TINY).state_dict())


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.eye(5, 64).to_sparse(), "is a sparse tensor; save tensor.to_dense()"),
        (torch.ones(5, 64, device="meta"), "is on the meta device, without numbers"),
        (torch.ones(1).expand(5, 64), "is a tensor whose elements overlap in memory"),
        (
            torch.ones(70).as_strided((5, 64), (1, 1)),
            "is a tensor whose elements overlap in memory",
        ),
        (torch.ones(5, 64, dtype=torch.complex64), "is of type torch.ComplexFloatStorage"),
        (
            torch.ones(5, 64, dtype=torch.complex64).conj().imag,
            "is a tensor that is negated lazily; save tensor.resolve_neg()",
        ),
        (torch.ones(0, 64), "is a tensor without numbers"),
        (torch.ones(5, 64).int(), "is torch.int32 of shape (5, 64); expected torch.float32"),
        (np.ones((5, 64)), "is a NumPy array, not a tensor; save torch.from_numpy(array)"),
    ],
    ids=[
        "sparse",
        "meta",
        "stride 0",
        "overlap",
        "complex",
        "negated",
        "empty",
        "integers",
        "numpy",
    ],
)
def test_tensors_that_are_not_plain_are_named(
    save: Callable[[object], Path], published: State, tensor: Any, message: str
) -> None:
    path = save({"model": {**published, "head.weight": tensor}})
    assert f"key 'head.weight' {message}" in refusal(path)


@pytest.mark.filterwarnings("ignore")  # PyTorch's deprecations
def test_quantised_tensors_are_named(save: Callable[[object], Path], published: State) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(5, 64), 0.1, 0, torch.qint8)
    path = save({**published, "head.weight": quantised})
    assert "is a quantised tensor; save tensor.dequantize()" in refusal(path)


def test_single_class_gives_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(dict(network(**TINY | {"num_classes": 1}).state_dict()), path)
    assert "the model has a single class: every image gets it" in read_checkpoint(path).warnings[0]
    assert "the model has a single class" in caplog.text
    assert main(["inspect", str(path)]) == 0
    assert "the model has a single class" in capsys.readouterr().out


def test_foreign_weights_are_named_with_advice(
    save: Callable[[object], Path], published: State
) -> None:
    message = refusal(save({**published, "criterion.weight": torch.ones(3)}))
    assert message.endswith(
        "key 'criterion.weight' is unknown to family published; "
        "save the network only, without losses, metrics and other heads"
    )


def test_metadata_must_give_an_image_size_that_weights_do_not(
    tmp_path: Path, published: State
) -> None:
    document = {"format_version": 1, "name": "a", "version": "1", "family": "published"}
    document |= {"hyperparameters": TINY, "preprocess": {}, "labels": ["a"] * 5}
    path = tmp_path / "weights.safetensors"
    save_file(published, path, {"xcit": json.dumps(document)})
    assert refusal(path).endswith("its metadata does not give the preprocessing's image_size")
