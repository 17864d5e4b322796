"""The network: parity with vit-pytorch, gradients, dropout and invalid sizes."""

import importlib.util
from collections.abc import Callable
from importlib.metadata import distribution
from typing import Any

import pytest
import torch
from torch import nn

from model.families.xcit import LayerScale, Transformer, XCiT

SMALL: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 7,
    "dim": 24,
    "depth": 2,
    "cls_depth": 1,
    "heads": 3,
    "dim_head": 8,
    "mlp_dim": 40,
}
CONFIGURATIONS = {
    "small": {},
    "inner width is not dim": {"heads": 5, "dim_head": 6},
    "one wide head": {"heads": 1, "dim_head": 64},
    "kernel 1": {"local_patch_kernel_size": 1},
    "kernel 5": {"local_patch_kernel_size": 5},
    "kernel 7, larger than the grid": {"local_patch_kernel_size": 7, "image_size": 24},
    "three class layers": {"cls_depth": 3},
    "no class layer": {"cls_depth": 0},
    "deep, past both LayerScale steps": {"depth": 26, "dim": 8},
    "one patch": {"image_size": 16, "patch_size": 16},
    "patch 2": {"patch_size": 2, "image_size": 16},
}


@pytest.fixture(scope="session")
def reference() -> Callable[..., nn.Module]:
    """vit-pytorch's XCiT, loaded from its file, since the package imports torchvision."""
    path = distribution("vit-pytorch").locate_file("vit_pytorch/xcit.py")
    spec = importlib.util.spec_from_file_location("reference_xcit", str(path))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.XCiT  # type: ignore[no-any-return]


def randomise(network: nn.Module) -> None:
    """Set realistic weights: no value at its initial one, including running statistics."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.2)


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_logits_equal_those_of_vit_pytorch(
    reference: Callable[..., nn.Module], changes: dict[str, int]
) -> None:
    config = SMALL | changes
    theirs, ours = reference(**config).eval(), XCiT(**config).eval()
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(3, 3, config["image_size"], config["image_size"])
    with torch.inference_mode():
        expected, actual = theirs(images), ours(images)
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


def test_initial_layer_scale_shrinks_with_depth() -> None:
    network = XCiT(**SMALL | {"depth": 25})
    branches = [m for m in network.xcit_transformer.modules() if isinstance(m, LayerScale)]
    scales = [branch.scale[0].item() for branch in branches[::3]]
    assert scales == pytest.approx([0.1] * 18 + [1e-5] * 6 + [1e-6])


def test_every_parameter_gets_a_gradient() -> None:
    network = XCiT(**SMALL)
    randomise(network)
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    silent = [
        name
        for name, weight in network.named_parameters()
        if weight.grad is None or not weight.grad.abs().sum() > 0
    ]
    assert silent == []


def test_row_of_a_batch_equals_the_single_image() -> None:
    network = XCiT(**SMALL).eval()
    randomise(network)
    images = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_evaluation_is_deterministic_for_any_dropout() -> None:
    network = XCiT(**SMALL, dropout=0.5, emb_dropout=0.5, layer_dropout=0.5).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        answers = [network(images) for _ in range(8)]
    assert all(torch.equal(answers[0], answer) for answer in answers)


@pytest.mark.parametrize("dropout", ["dropout", "emb_dropout", "layer_dropout"])
def test_each_dropout_acts_in_training(dropout: str) -> None:
    torch.manual_seed(0)
    network = XCiT(**SMALL | {dropout: 0.5}).train()
    images = torch.randn(2, 3, 32, 32)
    answers = [network(images) for _ in range(8)]
    assert not all(torch.equal(answers[0], answer) for answer in answers)


def test_layer_dropout_never_skips_every_layer() -> None:
    class Count(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens + 1

    torch.manual_seed(0)
    transformer = Transformer((Count() for _ in range(3)), layer_dropout=0.6).train()
    kept = [int(transformer(torch.zeros(1)).item()) for _ in range(200)]
    assert set(kept) == {1, 2, 3}


def test_pass_does_not_change_weights_or_input() -> None:
    network = XCiT(**SMALL).eval()
    images = torch.randn(1, 3, 32, 32)
    before = images.clone(), network.pos_embedding.detach().clone()
    with torch.inference_mode():
        network(images)
    assert torch.equal(images, before[0])
    assert torch.equal(network.pos_embedding, before[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, "image_size 30 must be a multiple of patch_size 8"),
        ({"local_patch_kernel_size": 4}, "local_patch_kernel_size 4 must be odd"),
    ],
)
def test_invalid_sizes_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        XCiT(**SMALL | changes)
