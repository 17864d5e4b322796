"""The training command: its files, and what it refuses before decoding images."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model.checkpoint import read_checkpoint
from training.command import main
from training.trainer import Trainer

from .runs import FLAGS, RECIPE, read_metrics, run, train


def test_command_writes_checkpoint_metrics_and_curves(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    choices = f"{FLAGS} --epochs 12 --decay-epochs 4 --batch-size 8 --average 0.8 --name tiny"
    main(["run", str(folder), "--out", str(out), *choices.split()])
    assert {path.name for path in out.iterdir()} == {
        *("tiny.safetensors", "metrics.csv", "curves.png", "last.pt", "steady.pt")
    }
    rows = read_metrics(out)
    assert [int(row["epoch"]) for row in rows] == list(range(1, 13))
    assert float(rows[-1]["test_accuracy"]) == 1.0
    checkpoint = read_checkpoint(out / "tiny.safetensors")
    assert checkpoint.spec.labels == ("blue", "red")
    assert checkpoint.spec.preprocess.mean[1] == 0.0

    capsys.readouterr()
    main(["evaluate", str(out / "tiny.safetensors"), str(folder)])
    printed = capsys.readouterr().out
    assert "16 images: top-1 100.00%" in printed
    assert "red" in printed


@pytest.mark.thorough
def test_evaluation_refuses_other_labels(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run", RECIPE)
    (folder / "test" / "red").rename(folder / "test" / "green")
    with pytest.raises(SystemExit, match="folder 'green' matches none of the 2 classes"):
        main(["evaluate", str(tmp_path / "run" / "tiny.safetensors"), str(folder)])


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_unwritable_directory_is_refused_before_decoding(
    folder: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    (folder / "train" / "red" / "00.png").write_bytes(b"broken")
    out = tmp_path / place
    with pytest.raises(SystemExit, match=f"^error: {out}: the run's files cannot be written there"):
        main(["run", str(folder), "--out", str(out)])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("--epochs 0", "--epochs is 0; it must be at least 1"),
        ("--decay-epochs -1", "--decay-epochs is -1; it must be at least 0"),
        ("--muon-lr nan", "--muon-lr is nan; it must be from 0 to 1"),
        ("--average 1.5", "--average is 1.5; it must be from 0 to 1"),
        ("--heads 0", "--heads is 0; it must be at least 1"),
        ("--image-size 9", "--image-size is 9; it must be a multiple of --patch-size, 4"),
    ],
)
def test_invalid_choices_are_refused_before_decoding(
    folder: Path, tmp_path: Path, choice: str, message: str
) -> None:
    (folder / "train" / "red" / "00.png").write_bytes(b"broken")
    with pytest.raises(SystemExit, match=f"^error: {message}$"):
        main(["run", str(folder), "--out", str(tmp_path), *FLAGS.split(), *choice.split()])


def test_missing_matplotlib_is_reported_before_the_first_epoch(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    epoch = Trainer._train_epoch

    def train_epoch(self: Trainer, model: torch.nn.Module) -> float:
        told.append(capsys.readouterr().err)
        return epoch(self, model)

    told: list[str] = []
    monkeypatch.setattr(Trainer, "_train_epoch", train_epoch)
    train(folder, tmp_path / "run", RECIPE)
    assert told[0].count("warning: matplotlib is not installed, so curves.png is not drawn") == 1
    assert not any("matplotlib" in text for text in told[1:])
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"tiny.safetensors", "metrics.csv", "last.pt", "steady.pt"}


@pytest.mark.usefixtures("undecoded")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: (images / "test/red").rename(images / "test/green"), "labels: green, red"),
        (lambda images: [*map(shutil.rmtree, images.glob("*/red"))], "the only label is blue"),
        (lambda images: (images / "test").rename(images / "tset"), "no images for split 'test'"),
    ],
)
def test_unsuitable_folders_are_refused_before_decoding(
    folder: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    change(folder)
    with pytest.raises(SystemExit, match=message):
        run(folder, tmp_path / "run")


@pytest.mark.usefixtures("undecoded")
def test_batch_larger_than_the_data_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="batch size is 128; it must be from 1 to 48 images"):
        run(folder, tmp_path / "run", *FLAGS.split(), "--batch-size", 128)
