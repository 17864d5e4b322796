"""Preprocessing from the arguments of training scripts."""

import json
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from model.checkpoint import Checkpoint, read_checkpoint
from model.errors import CheckpointError
from model.metadata.description import Overrides
from model.spec import IMAGENET_STD

from .test_xcit_published import TINY, network

MODEL = "xcit_tiny_12_p16_224"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return dict(network(**TINY).state_dict())


@pytest.fixture
def run(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    """The directory of a run, with only the weights."""
    torch.save({"state_dict": weights}, tmp_path / "model_best.pth.tar")
    return tmp_path


def keep(run: Path, weights: dict[str, torch.Tensor], **members: object) -> None:
    torch.save({"state_dict": weights, **members}, run / "model_best.pth.tar")


def write_args(run: Path, **args: object) -> None:
    (run / "args.yaml").write_text(yaml.safe_dump({"model": MODEL, **args}))


def preprocess(checkpoint: Checkpoint, name: str) -> tuple[Any, str]:
    """A value and its origin."""
    origin = checkpoint.description.origins[f"preprocess.{name}"]
    return getattr(checkpoint.spec.preprocess, name), origin.rpartition("/")[2]


@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        ({"img_size": 256}, "image_size", 256),
        ({"input_size": [3, 288, 288]}, "image_size", 288),
        ({"input_size": [3, 288, 288], "img_size": 256}, "image_size", 288),
        ({"model": "xcit_tiny_12_p16_384.fb_dist_in1k"}, "image_size", 384),
        ({"crop_pct": 0.9}, "crop_pct", 0.9),
        ({"interpolation": "bilinear"}, "interpolation", "bilinear"),
        ({"mean": [0.5, 0.4, 0.3]}, "mean", (0.5, 0.4, 0.3)),
        ({"mean": [0.5]}, "mean", (0.5, 0.5, 0.5)),
        ({"std": [1]}, "std", (1, 1, 1)),
        ({"model": "hf-hub:me/birds", "crop_pct": 0.9}, "crop_pct", 0.9),
        ({"model": "hf_hub:timm/xcit_nano_12_p16_224", "crop_pct": 0.9}, "crop_pct", 0.9),
    ],
)
def test_preprocessing_is_read_from_timm_arguments(
    run: Path, weights: dict[str, torch.Tensor], args: dict[str, Any], name: str, value: Any
) -> None:
    write_args(run, **args)
    assert preprocess(read_checkpoint(run), name) == (value, "args.yaml")
    (run / "args.yaml").unlink()
    keep(run, weights, args=Namespace(**{"model": MODEL, **args}))
    assert preprocess(read_checkpoint(run), name) == (value, "args in model_best.pth.tar")


def test_stated_size_overrides_the_size_in_a_name(
    run: Path, weights: dict[str, torch.Tensor]
) -> None:
    write_args(run, img_size=256)
    keep(run, weights, arch="xcit_tiny_12_p16_224")
    assert preprocess(read_checkpoint(run), "image_size") == (256, "args.yaml")
    (run / "config.json").write_text('{"architecture": "xcit_tiny_12_p16_384"}')
    assert preprocess(read_checkpoint(run), "image_size") == (256, "args.yaml")


def test_values_missing_in_timm_arguments_stay_default(run: Path) -> None:
    write_args(run, std=None, mean=None, interpolation="", img_size=None, crop_pct=None)
    checkpoint = read_checkpoint(run)
    assert preprocess(checkpoint, "std") == (IMAGENET_STD, "default")
    assert preprocess(checkpoint, "interpolation") == ("bicubic", "default")
    assert checkpoint.spec.name == MODEL


def test_more_specific_source_wins(run: Path, weights: dict[str, torch.Tensor]) -> None:
    write_args(run, crop_pct=0.9)
    assert preprocess(read_checkpoint(run), "crop_pct") == (0.9, "args.yaml")
    keep(run, weights, args=Namespace(model=MODEL, crop_pct=0.8), arch=MODEL)
    assert preprocess(read_checkpoint(run), "crop_pct") == (0.8, "args in model_best.pth.tar")
    config = {"architecture": MODEL, "pretrained_cfg": {"crop_pct": 0.7}, "num_classes": 5}
    (run / "config.json").write_text(json.dumps(config))
    assert preprocess(read_checkpoint(run), "crop_pct") == (0.7, "config.json")
    (run / "preprocess.json").write_text('{"crop_pct": 0.6}')
    assert preprocess(read_checkpoint(run), "crop_pct") == (0.6, "preprocess.json")
    chosen = read_checkpoint(run, Overrides(preprocess={"crop_pct": 0.5}))
    assert preprocess(chosen, "crop_pct") == (0.5, "settings")


def test_arguments_of_the_authors_script_are_read(
    run: Path, weights: dict[str, torch.Tensor]
) -> None:
    keep(run, weights, args=Namespace(model="xcit_small_12_p16", input_size=224, full_crop=False))
    assert preprocess(read_checkpoint(run), "crop_pct")[0] == 224 / 256
    keep(run, weights, args=Namespace(model="xcit_small_12_p16", input_size=384, full_crop=True))
    assert preprocess(read_checkpoint(run), "crop_pct")[0] == 1
    assert preprocess(read_checkpoint(run), "image_size")[0] == 384


def test_arguments_of_another_model_are_not_used(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_args(run, model="resnet50", crop_pct=0.9)
    assert preprocess(read_checkpoint(run), "crop_pct") == (1.0, "default")
    caplog.set_level(logging.WARNING)
    write_args(run, num_classes=7, crop_pct=0.9)
    assert preprocess(read_checkpoint(run), "crop_pct") == (1.0, "default")
    assert "args.yaml: not used: it is for a model with 7 classes" in caplog.text


MERGED = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"model: {MODEL}\nin_chans: 1", "in_chans is 1; only 3 is supported"),
        (f"model: {MODEL}\ngp: avg", "global_pool is 'avg'; only 'token' is supported"),
        (f"model: {MODEL}\ncrop_mode: squash", "crop_mode is 'squash'; only 'center'"),
        (
            f"model: {MODEL}\ninput_size: [3, 224, 320]",
            "224 x 320; only square images",
        ),
        (f"model: {MODEL}\ninput_size: [3]", "input_size is [3]; expected a shape such as [3, 224"),
        (f"model: {MODEL}\ncrop_pct: much", "args.yaml: crop_pct is 'much'; it must be above 0"),
        (f"model: {MODEL}\ninterpolation: random", "interpolation is 'random'"),
        (f'model: "{MODEL}.\\e[31m"', "name contains the control character U+001B"),
        ("- a list", "is a list of 1; expected settings by name"),
        ("!!python/object/apply:os.system ['true']", "not YAML of plain values"),
        ("a: [1", "not YAML of plain values"),
        ("[" * 60_000, "not YAML of plain values"),
        (MERGED, "not YAML of plain values"),
        ("a: 1\n" * 20_000, "over 65,536 characters"),
    ],
    ids=lambda text: text[:40],
)
def test_unsupported_arguments_are_refused_with_the_reason(
    run: Path, text: str, message: str
) -> None:
    (run / "args.yaml").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(run)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(str(run))
