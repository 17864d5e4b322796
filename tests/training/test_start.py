"""Runs that start from a checkpoint."""

import shutil
from pathlib import Path

import pytest
import torch

from model.checkpoint import read_checkpoint
from model.families.xcit import XCiT
from model.families.xcit_published import PublishedXCiT
from training.command import main
from training.start import take_over

from .runs import FLAGS, RECIPE, read_metrics, run, train

pytestmark = pytest.mark.thorough


def test_run_can_start_with_the_weights_of_another(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "first", RECIPE)
    first = tmp_path / "first" / "tiny.safetensors"
    for split in ("train", "test"):  # with one more class
        for label, like in {"blue": "blue", "green": "red", "red": "red"}.items():
            shutil.copytree(folder / split / like, tmp_path / "three" / split / label)
    out = tmp_path / "second"
    choices = f"{FLAGS} --epochs 1 --batch-size 8 --name tiny --start {first} --cutmix 0.5"
    main(["run", str(tmp_path / "three"), "--out", str(out), *choices.split()])
    spec = read_checkpoint(out / "tiny.safetensors").spec
    assert spec.labels == ("blue", "green", "red")
    assert spec.preprocess == read_checkpoint(first).spec.preprocess
    assert read_checkpoint(first).sha256 in spec.provenance["start"]
    with pytest.raises(SystemExit, match="its depth is 1, not 2; omit --depth, or start"):
        main(["run", str(folder), "--out", str(out / "b"), *choices.split(), "--depth", "2"])


@pytest.mark.thorough
def test_checkpoint_is_fine_tuned_without_further_flags(
    folder: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for split in ("train", "test"):
        for old, new in {"blue": "cold", "red": "warm"}.items():
            (folder / split / old).rename(folder / split / new)
    monkeypatch.setattr("training.recipe.MIN_STEPS", 150)  # saves some seconds
    out = tmp_path / "tuned"
    run(folder, out, "--start", start)
    assert float(read_metrics(out)[-1]["test_accuracy"]) == 1.0
    spec = read_checkpoint(out / "tuned.safetensors").spec
    assert (spec.name, spec.labels) == ("tuned", ("cold", "warm"))
    assert spec.hyperparameters["dim"] == 16, "that of the start"
    assert "warning" not in capsys.readouterr().err


def test_average_that_stays_near_the_start_is_reported(
    folder: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, tmp_path / "slow", "--start", start, "--average", 0.998, "--epochs", 2)
    (line,) = (row for row in capsys.readouterr().err.splitlines() if row.startswith("warning: "))
    assert "the averaged weights, which are saved, have moved only" in line
    assert "lower it, or train for more epochs" in line


@pytest.mark.usefixtures("undecoded")
def test_start_of_another_family_is_refused_before_decoding(folder: Path, tmp_path: Path) -> None:
    sizes = {"patch_size": 8, "dim": 16, "depth": 1, "cls_depth": 1, "heads": 2, "mlp_dim": 32}
    network = PublishedXCiT(**sizes, num_classes=2, tokens_norm=True)
    torch.save(network.state_dict(), tmp_path / "other.pt")
    with pytest.raises(SystemExit, match=r"other\.pt: its family is published; only the family"):
        run(folder, tmp_path / "run", "--start", tmp_path / "other.pt")
    assert not (tmp_path / "run").exists()


def test_head_is_copied_label_by_label(start: Path) -> None:
    checkpoint = read_checkpoint(start)
    network = XCiT(**RECIPE.architecture, num_classes=3)
    before = network.state_dict()["mlp_head.1.weight"].clone()
    take_over(network, ("red", "green", "blue"), checkpoint)
    head, old = (state["mlp_head.1.weight"] for state in (network.state_dict(), checkpoint.state))
    assert torch.equal(head[0], old[1])
    assert torch.equal(head[1], before[1])
    assert torch.equal(head[2], old[0])
