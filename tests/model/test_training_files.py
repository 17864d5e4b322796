"""Checkpoints of training scripts give the same weights as the plain state dict."""

import json
from argparse import Namespace
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from enum import Enum
from pathlib import Path, PosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint import read_checkpoint
from model.families.xcit import XCiT

from .conftest import HYPERPARAMETERS
from .published import random_images
from .test_xcit_published import TINY, network

State = dict[str, Tensor]
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
COUNTER = "num_batches_tracked"


@pytest.fixture(scope="module")
def published() -> State:
    return dict(network(**TINY).state_dict())


def other(state: State) -> State:
    """The same network with other numbers."""
    return {key: tensor + 1 for key, tensor in state.items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def same(path: Path, state: State) -> bool:
    found = read_checkpoint(path).state
    return found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


@st.composite
def wrapped(draw: st.DrawFn, state: State) -> Any:
    """The state inside dictionaries, lists and module wrappers, next to other objects."""
    positions = draw(st.lists(st.integers(0, 4), max_size=3))
    wrapper = draw(st.sampled_from(WRAPPERS))
    keys = {}
    for key in state:
        parts = key.split(".")
        for position in positions:
            parts.insert(min(position, len(parts) - 1), wrapper)
        keys[".".join(parts)] = state[key]
    payload: Any = keys
    beside = {"epoch": 3, "loss": torch.tensor(0.5), "best": np.float64(0.9), "where": Path("/x")}
    for name in draw(st.lists(st.sampled_from(["model", "net", "module", "sd", 0]), max_size=3)):
        payload = [payload] if name == 0 else {**beside, name: payload, "optimizer": {"state": {}}}
    return payload


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_wrapped_state_dict_is_found(
    tmp_path_factory: pytest.TempPathFactory, published: State, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("wrapped") / "weights.pt"
    torch.save(data.draw(wrapped(published)), path)
    assert same(path, published)


@pytest.mark.parametrize(
    "change",
    [
        lambda key, t: None if key.endswith(COUNTER) else t,
        lambda key, t: t.half() if key.endswith(COUNTER) else t,
        lambda key, t: t.float() if key.endswith(COUNTER) else t,
        lambda key, t: t.int() if key.endswith(COUNTER) else t,
        lambda key, t: t.reshape(1) if key.endswith(COUNTER) else t,
        lambda key, t: t.double() if t.is_floating_point() else t,
        lambda key, t: t.reshape(1).to_sparse() if key.endswith(COUNTER) else t,
        lambda key, t: t.to("meta") if key.endswith(COUNTER) else t,
        lambda key, t: t.reshape(1)[:0] if key.endswith(COUNTER) else t,
        lambda key, t: t.reshape(1).expand(5) if key.endswith(COUNTER) else t,
        lambda key, t: t.to(torch.complex64) if key.endswith(COUNTER) else t,
    ],
    ids=[
        "absent",
        "float16",
        "float32",
        "int32",
        "one element",
        "double",
        "sparse",
        "meta",
        "empty",
        "stride 0",
        "complex",
    ],
)
def test_batch_counters_may_have_any_type(
    save: Callable[[object], Path], published: State, change: Callable[[str, Tensor], Tensor | None]
) -> None:
    changed = {key: new for key, t in published.items() if (new := change(key, t)) is not None}
    found = read_checkpoint(save(changed))
    assert found.state.keys() == published.keys()
    assert all(torch.equal(found.state[k], t) for k, t in published.items() if COUNTER not in k)
    assert all(t.dtype == torch.int64 for k, t in found.state.items() if COUNTER in k)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrow_and_mixed_types_load_as_32_bits(
    save: Callable[[object], Path], published: State, dtype: torch.dtype
) -> None:
    narrow = {
        key: t.to(dtype) if place % 3 else t for place, (key, t) in enumerate(published.items())
    }
    found = read_checkpoint(save(narrow)).state
    for key, tensor in narrow.items():
        assert COUNTER in key or torch.equal(found[key], tensor.float()), key


class Training:
    """Pickles refer to its nested classes in several ways."""

    class Stage(Enum):
        FIRST = 1

    class Options:
        rate = 0.1


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_custom_classes_next_to_the_weights_are_ignored(
    tmp_path: Path, published: State, protocol: int
) -> None:
    beside = [
        Training.Stage.FIRST,
        Training.Options(),
        [].append,
        ...,
        NotImplemented,
        1j,
        range(3),
        {1, 2},
        defaultdict(int, seen=3),
        str,
        max,
        ValueError("the loss is NaN"),
        KeyboardInterrupt(),
    ]
    path = tmp_path / "weights.pt"
    torch.save({"beside": beside, "model": published}, path, pickle_protocol=protocol)
    assert same(path, published)


def test_flat_dictionary_of_lightning(save: Callable[[object], Path], published: State) -> None:
    state = {
        **prefixed("net.", published),
        **prefixed("net_ema.module.", other(published)),
        "criterion.weight": torch.ones(5),
        "val_confusion.confmat": torch.zeros(5, 5),
        "net_ema.n_averaged": torch.tensor(3),
    }
    payload = {
        "pytorch-lightning_version": "2.5.1",
        "state_dict": state,
        "callbacks": {"ModelCheckpoint": {"best_model_path": PosixPath("/runs/best.ckpt")}},
        "hyper_parameters": SimpleNamespace(lr=1e-3),
    }
    path = save(payload)
    assert read_checkpoint(path).place == "state_dict.net_ema.module"
    assert same(
        path, {key: t.long() if COUNTER in key else t for key, t in other(published).items()}
    )


def test_prefixes_work_for_both_families_and_safetensors(tmp_path: Path, published: State) -> None:
    path = tmp_path / "model.safetensors"
    save_file(prefixed("timm_model.", published), path)
    assert read_checkpoint(path).place == "timm_model"
    assert same(path, published)
    torch.manual_seed(0)
    mine = dict(XCiT(**HYPERPARAMETERS).state_dict())
    save_file(prefixed("module.", mine), path)
    assert same(path, mine)


def test_timm_wrapper_of_transformers(tmp_path: Path, published: State) -> None:
    names = ["auk", "bittern", "crow", "dodo", "egret"]
    save_file(prefixed("timm_model.", published), tmp_path / "model.safetensors")
    config = {
        "architecture": "xcit_tiny_12_p16_224",
        "architectures": ["TimmWrapperForImageClassification"],
        "do_pooling": True,
        "label_names": names,
        "labels": None,
        "model_args": None,
        "model_type": "timm_wrapper",
        "num_classes": 5,
        "pretrained_cfg": None,
        "tag": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for junk in ("training_args.bin", "optimizer.pt", "rng_state.pth", "._model.safetensors"):
        torch.save({"lr": 1}, tmp_path / junk)
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.spec.labels == tuple(names)
    assert checkpoint.spec.preprocess.image_size == 224
    assert checkpoint.spec.name == "xcit_tiny_12_p16_224"
    config = {**config, "label_names": None, "id2label": dict(enumerate(names))}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_checkpoint(tmp_path).spec.labels == tuple(names)


@pytest.mark.parametrize("layout", [True, False], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_python_objects_next_to_the_weights_are_ignored(
    tmp_path: Path, published: State, layout: bool, protocol: int
) -> None:
    payload = OrderedDict(
        args=Namespace(out=PosixPath("/runs"), lr=np.float32(0.1)),
        metric=np.float64(0.88),
        seen={3: "x", (1, 2): "y"},
        state_dict=OrderedDict(published),
        shape=torch.Size([3, 4]),
        device=torch.device("cpu"),
        history=[{"loss": np.int64(3)}],
    )
    path = tmp_path / "weights.pt"
    torch.save(payload, path, pickle_protocol=protocol, _use_new_zipfile_serialization=layout)
    assert same(path, published)
    images = random_images(1, 48, 64)
    with torch.inference_mode():
        assert torch.equal(read_checkpoint(path).build()(images), network(**TINY)(images))
