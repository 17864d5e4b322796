"""A small network and fixtures that write its weights to disk."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.families.simplify import baseline
from model.families.xcit import XCiT
from model.spec import ModelSpec, PreprocessSpec

from .published import realistic_weights

HYPERPARAMETERS = {
    "image_size": 16,
    "patch_size": 4,
    "num_classes": 3,
    "dim": 24,
    "depth": 2,
    "cls_depth": 1,
    "heads": 2,
    "dim_head": 8,
    "mlp_dim": 20,
    "local_patch_kernel_size": 3,
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """With several threads, small passes are slower: the threads wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec(
        name="small",
        version="7",
        family="vit_pytorch",
        hyperparameters=HYPERPARAMETERS,
        preprocess=PreprocessSpec(16, interpolation="bilinear", crop_pct=0.9, mean=(0.4, 0.5, 0.6)),
        labels=("ant", "bee", "çöp"),
        provenance={"data": "none"},
    )


@pytest.fixture
def network() -> XCiT:
    torch.manual_seed(0)
    return XCiT(**HYPERPARAMETERS).eval()


@pytest.fixture
def whole(spec: ModelSpec, network: XCiT) -> nn.Sequential:
    """Pixels to logits, with weights like those of a trained network."""
    network.load_state_dict(realistic_weights(network.state_dict()))
    return baseline(network, spec.preprocess).eval()


@pytest.fixture
def _threads() -> Iterator[None]:
    """Restore PyTorch's number of threads, which backends change."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def state(network: XCiT) -> dict[str, Tensor]:
    return dict(network.state_dict())


@pytest.fixture
def save(tmp_path: Path) -> Callable[[object], Path]:
    """Write a payload as ``weights.pt``."""

    def save(payload: object) -> Path:
        path = tmp_path / "weights.pt"
        torch.save(payload, path)
        return path

    return save
