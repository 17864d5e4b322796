"""Descriptions of raw published checkpoints, and the origin of each value."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from model.errors import CheckpointError
from model.families.xcit_published import PublishedXCiT
from model.inference.classifier import load_classifier
from model.metadata.description import Overrides
from model.metadata.timm_config import imagenet_labels
from model.spec import IMAGENET_MEAN

from .published import realistic_weights
from .test_xcit_published import TINY, network

CONFIG = {
    "architecture": "xcit_tiny_12_p16_224",
    "num_classes": 5,
    "global_pool": "token",
    "pretrained_cfg": {
        "tag": "my_birds",
        "input_size": [3, 288, 288],
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "first_conv": "patch_embed.proj.0.0",
        "classifier": "head",
    },
}
BIRDS = ["auk", "bittern", "crow", "dodo", "egret"]


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Path]:
    """A published checkpoint with the given name and classes, in an empty folder."""

    def place(name: str = "weights.safetensors", **changes: Any) -> Path:
        path = tmp_path / name
        save_file(network(**TINY | changes).state_dict(), path)
        return path

    return place


def refusal(path: Path, **overrides: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, Overrides(**overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def origins(checkpoint: Checkpoint, *names: str) -> list[str]:
    return [checkpoint.description.origins[name] for name in names]


def test_defaults_apply_without_any_other_source(place: Callable[..., Path]) -> None:
    checkpoint = read_checkpoint(place())
    preprocess = checkpoint.spec.preprocess
    assert (preprocess.image_size, preprocess.interpolation) == (224, "bicubic")
    assert (preprocess.crop_pct, preprocess.mean) == (1.0, IMAGENET_MEAN)
    assert checkpoint.spec.labels == tuple(f"class_{i}" for i in range(5))
    assert origins(checkpoint, "dim", "tokens_norm", "preprocess.image_size", "labels") == [
        *("weights", "dim, as published", "default", "default")
    ]


def test_resolution_is_read_from_the_file_name(place: Callable[..., Path]) -> None:
    checkpoint = read_checkpoint(place("xcit_tiny_12_p16_384_dist.safetensors"))
    assert checkpoint.spec.preprocess.image_size == 384
    assert origins(checkpoint, "preprocess.image_size", "family") == ["file name", "weights"]


def test_timm_config_overrides_the_file_name(place: Callable[..., Path]) -> None:
    path = place("xcit_tiny_12_p16_384_dist.safetensors")
    config = path.with_name("config.json")
    config.write_text(json.dumps(CONFIG | {"label_names": BIRDS}))
    checkpoint = read_checkpoint(path)
    preprocess = checkpoint.spec.preprocess
    assert (preprocess.image_size, preprocess.interpolation) == (288, "bilinear")
    assert (preprocess.crop_pct, preprocess.mean) == (0.95, (0.5, 0.5, 0.5))
    assert checkpoint.spec.labels == tuple(BIRDS)
    assert origins(checkpoint, "preprocess.mean", "labels") == [str(config)] * 2


def test_older_form_of_timm_config_is_read(place: Callable[..., Path]) -> None:
    path = place()
    older = {**CONFIG["pretrained_cfg"], "architecture": "xcit_tiny_12_p16_224"}  # type: ignore[dict-item]
    path.with_name("config.json").write_text(json.dumps(older | {"labels": BIRDS}))
    spec = read_checkpoint(path).spec
    assert (spec.preprocess.image_size, spec.labels) == (288, tuple(BIRDS))


def test_sidecars_override_timm_config_and_settings_override_everything(
    place: Callable[..., Path], tmp_path: Path
) -> None:
    path = place()
    path.with_name("config.json").write_text(json.dumps(CONFIG | {"label_names": BIRDS}))
    path.with_name("preprocess.json").write_text('{"image_size": 320, "crop_pct": 0.9}')
    path.with_name("labels.txt").write_text("a\nb\nc\nd\ne\n")
    checkpoint = read_checkpoint(path)
    assert checkpoint.spec.preprocess.image_size == 320
    assert checkpoint.spec.preprocess.mean == (0.5, 0.5, 0.5)
    assert checkpoint.spec.labels == ("a", "b", "c", "d", "e")
    mine = tmp_path / "mine.txt"
    mine.write_text("v\nw\nx\ny\nz\n")
    checkpoint = read_checkpoint(path, Overrides(labels=mine, image_size=160))
    assert checkpoint.spec.preprocess.image_size == 160
    assert checkpoint.spec.preprocess.crop_pct == 0.9
    assert checkpoint.spec.labels == ("v", "w", "x", "y", "z")
    assert origins(checkpoint, "preprocess.image_size", "preprocess.crop_pct", "labels") == [
        *("settings", str(path.with_name("preprocess.json")), str(mine))
    ]


def test_generic_file_name_is_replaced_by_timms_model_name(place: Callable[..., Path]) -> None:
    path = place("model.safetensors")
    assert read_checkpoint(path.parent).spec.name == "model"
    path.with_name("config.json").write_text(json.dumps(CONFIG))
    assert read_checkpoint(path.parent).spec.name == "xcit_tiny_12_p16_224.my_birds"
    assert read_checkpoint(path.rename(path.with_name("birds.bin"))).spec.name == "birds"


def test_config_of_another_architecture_is_ignored(place: Callable[..., Path]) -> None:
    path = place()
    path.with_name("config.json").write_text(
        '{"architecture": "resnet50", "input_size": [3, 9, 9]}'
    )
    assert read_checkpoint(path).spec.preprocess.image_size == 224


def test_tokens_norm_is_read_from_timm_arguments_or_settings(place: Callable[..., Path]) -> None:
    path = place()
    path.with_name("config.json").write_text(
        json.dumps(CONFIG | {"model_args": {"tokens_norm": False, "img_size": 64}})
    )
    spec = read_checkpoint(path).spec
    assert spec.hyperparameters["tokens_norm"] is False
    assert spec.preprocess.image_size == 64
    overrides = Overrides(hyperparameters={"tokens_norm": True})
    assert read_checkpoint(path, overrides).spec.hyperparameters["tokens_norm"] is True


def test_thousand_classes_get_imagenet_labels(place: Callable[..., Path]) -> None:
    path = place(num_classes=1000)
    spec = read_checkpoint(path).spec
    assert (spec.labels[207], spec.synsets[207]) == ("golden retriever", "n02099601")
    assert len(set(spec.labels)) == 1000
    classifier = load_classifier(path, Overrides(image_size=32))
    (found,) = classifier.predict([np.zeros((32, 32, 3), np.uint8)], 1)
    (best,) = found.predictions
    assert (best.label, best.synset) == (spec.labels[best.class_id], spec.synsets[best.class_id])
    path.with_name("labels.txt").write_text("\n".join(f"mine {i}" for i in range(1000)))
    spec = read_checkpoint(path).spec
    assert (spec.labels[207], spec.synsets) == ("mine 207", ())


def test_synsets_in_timm_config_get_readable_names(place: Callable[..., Path]) -> None:
    path = place()
    synsets = [synset for synset, _ in imagenet_labels()[:4]] + ["n99999999"]
    described = {"n99999999": "unheard of"}
    path.with_name("config.json").write_text(
        json.dumps(CONFIG | {"label_names": synsets, "label_descriptions": described})
    )
    spec = read_checkpoint(path).spec
    assert spec.synsets == tuple(synsets)
    assert spec.labels == ("tench", "goldfish", "great white shark", "tiger shark", "unheard of")


def test_description_survives_conversion(place: Callable[..., Path]) -> None:
    path = place("xcit_tiny_12_p16_384.safetensors", num_classes=1000)
    checkpoint = read_checkpoint(path, Overrides(hyperparameters={"tokens_norm": False}))
    for dtype, tolerance in (("float32", 0), ("bfloat16", 2**-8), ("float16", 2**-11)):
        output = path.with_name(f"{dtype}.safetensors")
        write_checkpoint(output, checkpoint.spec, checkpoint.state, dtype=dtype)
        again = read_checkpoint(output)
        assert again.self_describing
        assert again.spec == checkpoint.spec
        assert output.stat().st_size < path.stat().st_size * (1.1 if dtype == "float32" else 0.6)
        for key, tensor in checkpoint.state.items():
            assert torch.allclose(again.state[key], tensor, rtol=tolerance, atol=1e-7), key


def test_weights_too_large_for_16_bits_are_refused_by_name(place: Callable[..., Path]) -> None:
    checkpoint = read_checkpoint(place())
    state = {**checkpoint.state, "head.bias": torch.full((5,), 1e6)}
    output = checkpoint.path.with_name("out.safetensors")
    with pytest.raises(CheckpointError, match=r"'head.bias' does not fit in float16; try bfloat16"):
        write_checkpoint(output, checkpoint.spec, state, dtype="float16")
    assert not output.exists()


def test_log_names_the_origin_of_preprocessing(
    place: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        read_checkpoint(place("xcit_tiny_12_p16_384.safetensors"))
    assert "preprocessing from default, file name" in caplog.text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json: not JSON"),
        ("[]", "config.json: is []; expected settings by name"),
        (json.dumps(CONFIG | {"global_pool": "avg"}), "global_pool is 'avg'; only 'token'"),
        (json.dumps(CONFIG | {"model_args": {"in_chans": 1}}), "in_chans is 1; only 3"),
        (json.dumps(CONFIG | {"pretrained_cfg": {"crop_mode": "squash"}}), "crop_mode is 'squash'"),
        (json.dumps(CONFIG | {"pretrained_cfg": {"input_size": [3, 64, 96]}}), "64 x 96; only sq"),
        (json.dumps(CONFIG | {"pretrained_cfg": {"input_size": [3, 50, 50]}}), "multiple of the"),
        (json.dumps(CONFIG | {"pretrained_cfg": {"interpolation": "random"}}), "is 'random'; it"),
        (json.dumps(CONFIG | {"label_names": ["auk"]}), "config.json: 1 labels for the 5 classes"),
        (json.dumps(CONFIG | {"label_names": {"7": "auk"}}), "expected a JSON list of names"),
    ],
)
def test_unsupported_config_is_refused_with_the_reason(
    place: Callable[..., Path], config: str, message: str
) -> None:
    path = place()
    path.with_name("config.json").write_text(config)
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"image_size": 200}, "multiple of the patch size 16, such as 192 or 208"),
        ({"image_size": 5}, "multiple of the patch size 16, such as 16"),
        ({"hyperparameters": {"heads": 5}}, "heads is 5, from settings; the weights have 4"),
        ({"hyperparameters": {"depth": 3}}, "depth is 3, from settings; the weights have 2"),
        (
            {"hyperparameters": {"tokens_nrom": True}},
            "unknown hyper-parameter 'tokens_nrom', from settings; known are patch_size, ",
        ),
    ],
)
def test_invalid_settings_are_refused_with_the_reason(
    place: Callable[..., Path], overrides: dict[str, Any], message: str
) -> None:
    path = place()
    told = refusal(path, **overrides)
    assert message in told
    assert str(path) in told


def test_backbone_without_a_head_is_refused(tmp_path: Path) -> None:
    state = realistic_weights(PublishedXCiT(**TINY).state_dict())
    backbone = {key: t for key, t in state.items() if not key.startswith("head.")}
    path = tmp_path / "backbone.pth"
    torch.save(backbone, path)
    assert "a backbone without its classifier: key 'head.weight' is missing" in refusal(path)
    projection = {"head.mlp.0.weight": torch.ones(1), "head.last_layer.weight_g": torch.ones(1)}
    torch.save({"teacher": {f"backbone.{k}": backbone[k] for k in backbone} | projection}, path)
    assert "a backbone without its classifier" in refusal(path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["cls_token", "pos_embed", "blocks.0.attn.qkv.weight"], "the architecture is unknown"),
        (["conv1.weight", "layer1.0.conv1.weight"], "its first key is 'model.conv1.weight'"),
    ],
    ids=["deit", "resnet"],
)
def test_other_architectures_are_refused(tmp_path: Path, keys: list[str], message: str) -> None:
    path = tmp_path / "other.pth"
    torch.save({"model": dict.fromkeys(keys, torch.ones(2))}, path)
    told = refusal(path)
    assert message in told
    assert "blocks.0.local_mp.conv1.weight" in told
