"""The guide to models fine-tuned with timm, followed with the output of its ``train.py``."""

import re
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from app.cli.main import main
from model.checkpoint import read_checkpoint
from model.families.variants import find_variant
from model.families.xcit_published import PublishedXCiT
from tests.documents import ROOT, blocks, read_blocks

pytestmark = pytest.mark.one_process("about the guide")

GUIDE = ROOT / "docs" / "how-to" / "timm.md"
CLASSES = ("Wren", "robin", "tit10")
VARIANT = "xcit_nano_12_p16_224.fb_in1k"
FLAGS = dict.fromkeys(("evaluate", "predict"), ("--backend", "torch"))  # without compiling
ARGS = {
    "model": VARIANT,
    "num_classes": 3,
    "crop_pct": 0.9,
    "mean": None,
    "std": None,
    "interpolation": "",
    "img_size": None,
    "input_size": None,
    "in_chans": None,
    "gp": None,
    "model_kwargs": {},
    "val_split": "val",
    "model_ema": True,
}


def network() -> nn.Module:
    variant = find_variant(VARIANT)
    assert variant
    hyperparameters: dict[str, Any] = {**variant.hyperparameters, "num_classes": 3}
    return PublishedXCiT(**hyperparameters).eval()


@pytest.fixture(scope="module")
def averaged() -> nn.Module:
    torch.manual_seed(1)
    return network()


@pytest.fixture
def reader(tmp_path: Path, averaged: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with images, and ``output/train/birds`` as ``CheckpointSaver`` writes it."""
    for number, name in enumerate(CLASSES):
        for split in ("train", "val"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            Image.effect_noise((80, 60), 40 + 30 * number).convert("RGB").save(folder / "000.png")
    run = tmp_path / "output" / "train" / "birds"
    run.mkdir(parents=True)
    (run / "args.yaml").write_text(yaml.safe_dump(ARGS))
    (run / "summary.csv").write_text("epoch,train_loss,eval_top1\n0,1.1,33.3\n")
    checkpoint = {
        "epoch": 0,
        "arch": VARIANT,
        "state_dict": network().state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "version": 2,
        "args": Namespace(**ARGS),
        "state_dict_ema": averaged.state_dict(),
        "metric": 33.3,
    }
    for name in ("model_best", "last", "checkpoint-0"):
        torch.save(checkpoint, run / f"{name}.pth.tar")
    for block in read_blocks(GUIDE):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def follow(capsys: pytest.CaptureFixture[str], *commands: str) -> dict[str, str]:
    """Run these commands of the guide, and return their output."""
    printed = {}
    for command in (command for block in blocks("console", GUIDE) for command in block.commands()):
        program, *words = shlex.split(command)
        if program == "python":
            script, folder, _, output = words
            done = subprocess.check_output([sys.executable, script, folder], text=True)
            Path(output).write_text(done)
        elif words[0] in commands:
            assert main([*words, *FLAGS.get(words[0], ())]) == 0, command
            printed[words[0]] = capsys.readouterr().out
    return printed


def test_the_guide_converts_what_timm_has_trained(
    reader: Path, averaged: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = follow(capsys, "inspect", "convert")
    _, shown = blocks("text", GUIDE)
    inspected = re.sub(r" +", " ", printed["inspect"])
    for line in re.sub(r" +", " ", shown.text).splitlines():
        assert line in inspected
    assert "birds 1, published, 3 classes" in printed["convert"]
    served = read_checkpoint("birds.safetensors")
    assert served.spec.labels == ("robin", "tit10", "Wren")
    assert served.spec.preprocess.crop_pct == 0.9
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected = averaged(images).softmax(1)
        assert torch.allclose(served.build()(images).softmax(1), expected, atol=0.02)


def test_the_guide_measures_what_timm_has_trained(
    reader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = follow(capsys, "convert", "evaluate", "predict")
    assert "3 images: top-1" in printed["evaluate"]
    assert any(name in printed["predict"] for name in CLASSES)
