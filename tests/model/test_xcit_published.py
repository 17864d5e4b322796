"""The published family: logits equal to timm's (``scripts/golden_published.py``), and inference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint import read_checkpoint
from model.families.registry import adapt_published
from model.families.variants import VARIANTS, find_variant, image_size_in
from model.families.xcit_published import PublishedXCiT

from .published import random_images, realistic_weights

GOLDEN = json.loads((Path(__file__).parent / "golden" / "published.json").read_text())
TINY: dict[str, Any] = {
    "patch_size": 16,
    "num_classes": 5,
    "dim": 64,
    "depth": 2,
    "cls_depth": 2,
    "heads": 4,
    "mlp_dim": 96,
    "tokens_norm": True,
}

Save = Callable[[object], Path]
State = dict[str, Tensor]


def network(**hyperparameters: Any) -> PublishedXCiT:
    built = PublishedXCiT(**hyperparameters).eval()
    built.load_state_dict(realistic_weights(built.state_dict()))
    return built


def official(state: State) -> State:
    """Rename timm's keys to the authors' names."""
    found = {}
    for key, tensor in state.items():
        head, attention, tail = key.partition(".attn.q.")
        if attention and key.startswith("cls_attn_blocks."):
            parts = [state[f"{head}.attn.{name}.{tail}"] for name in "qkv"]
            found[f"{head}.attn.qkv.{tail}"] = torch.cat(parts)
        elif not (key.startswith("cls_attn_blocks.") and (".attn.k." in key or ".attn.v." in key)):
            found[key.replace("pos_embed.", "pos_embeder.")] = tensor
    return found


@pytest.fixture(scope="module")
def state() -> State:
    return dict(network(**TINY).state_dict())


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def is_large(case: dict[str, Any]) -> bool:
    return any(size in case["variant"] for size in ("medium", "large"))


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.thorough] * is_large(case)) for case in GOLDEN["cases"]],
    ids=lambda case: "{variant}-{depth}-{height}x{width}".format(**case),
)
def test_logits_equal_those_of_timm(case: dict[str, Any]) -> None:
    hyperparameters = VARIANTS[case["variant"]].hyperparameters
    built = network(**hyperparameters | {"depth": case["depth"], "num_classes": 10})
    with torch.inference_mode():
        logits = built(random_images(2, case["height"], case["width"]))
    assert relative_error(logits.double(), torch.tensor(case["logits"]).double()) < 1e-5


def test_tokens_norm_and_axis_order_change_the_logits(state: State) -> None:
    images = random_images(1, 64, 96)
    with torch.inference_mode():
        expected = network(**TINY)(images)
        other = network(**TINY | {"tokens_norm": False})(images)
        turned = network(**TINY)(images.mT)
    assert relative_error(other, expected) > 1e-3
    assert relative_error(turned, expected) > 1e-3


def test_every_parameter_gets_a_gradient() -> None:
    built = network(**TINY).train()
    built(random_images(2, 64, 32)).square().sum().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_resolutions_of_partial_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="100 x 96 pixels: both must be multiples of the"):
        network(**TINY)(random_images(1, 100, 96))


@pytest.mark.parametrize("changes", [{"patch_size": 12}, {"heads": 5}])
def test_invalid_hyperparameters_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be 8 or 16|must be a multiple of heads"):
        PublishedXCiT(**TINY | changes)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state},
        lambda state: {"model": {"junk": torch.ones(1)}, "model_ema": state},
        lambda state: {
            "state_dict": {},
            "state_dict_ema": {f"module.{k}": state[k] for k in state},
        },
        lambda state: {"n_averaged": torch.ones(()), **{f"module.{k}": state[k] for k in state}},
        lambda state: {"student": {}, "teacher": {f"backbone.{k}": state[k] for k in state}},
        lambda state: {"state_dict": {f"model.{k}": state[k] for k in state}},
    ],
    ids=["timm", "model", "model_ema", "state_dict_ema", "averaged", "teacher", "lightning"],
)
@pytest.mark.parametrize("layout", [lambda state: state, official], ids=["timm", "official"])
def test_every_layout_and_wrapping_gives_the_same_logits(
    save: Save, state: State, layout: Callable[[State], State], wrap: Callable[[State], object]
) -> None:
    checkpoint = read_checkpoint(save(wrap(layout(state))))
    assert checkpoint.spec.family == "published"
    assert dict(checkpoint.spec.hyperparameters) == TINY
    images = random_images(1, 48, 64)
    with torch.inference_mode():
        assert torch.equal(checkpoint.build()(images), network(**TINY)(images))


def test_official_keys_are_split_without_copying(state: State) -> None:
    whole = official(state)
    adapted = adapt_published(whole)
    assert {key: t.shape for key, t in adapted.items()} == {k: t.shape for k, t in state.items()}
    storage = whole["cls_attn_blocks.0.attn.qkv.weight"].untyped_storage()
    assert adapted["cls_attn_blocks.0.attn.v.weight"].untyped_storage().data_ptr() == (
        storage.data_ptr()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": 8},
        {"depth": 3, "cls_depth": 1},
        {"heads": 2, "mlp_dim": 30},
        {"dim": 128, "tokens_norm": False},
        {"num_classes": 1},
    ],
    ids=str,
)
def test_every_hyperparameter_is_inferred(tmp_path: Path, changes: dict[str, Any]) -> None:
    expected = TINY | changes
    path = tmp_path / "model.safetensors"
    save_file(dict(PublishedXCiT(**expected).state_dict()), path)
    assert dict(read_checkpoint(path).spec.hyperparameters) == expected


def test_all_42_variants_have_a_name() -> None:
    assert len(VARIANTS) == 42
    assert VARIANTS["xcit_large_24_p8_384.fb_dist_in1k"].hyperparameters["dim"] == 768


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("xcit_small_12_p16_224.fb_dist_in1k", "xcit_small_12_p16_224.fb_dist_in1k"),
        ("xcit_small_12_p16_224_dist", "xcit_small_12_p16_224.fb_dist_in1k"),
        ("xcit_small_12_p16_224", "xcit_small_12_p16_224.fb_in1k"),
        ("xcit_small_12_p16_384", "xcit_small_12_p16_384.fb_dist_in1k"),
        ("xcit_small_12_p16_384.fb_in1k", None),
        ("xcit_small_13_p16_224", None),
        ("xcit_small_12_p16_224.pth", None),
        ("resnet50", None),
    ],
)
def test_variants_are_found_by_either_name(name: str, found: str | None) -> None:
    variant = find_variant(name)
    assert (variant.name if variant else None) == found


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("xcit_tiny_12_p8_384_dist", 384),
        ("birds-xcit_tiny_12_p8_320-epoch3", 320),
        ("xcit_tiny_12_p8_20240101", None),
        ("birds", None),
    ],
)
def test_resolution_is_read_from_a_file_name(name: str, size: int | None) -> None:
    assert image_size_in(name) == size
