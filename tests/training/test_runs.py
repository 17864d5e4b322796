"""Training runs: saved epochs, held-out images, presets, time limits and refusals."""

import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_training
from model.checkpoint import read_checkpoint
from model.errors import ModelError
from model.evaluation.dataset import list_split, load_dataset
from model.evaluation.holdout import held_out
from model.spec import PreprocessSpec
from training.command import load_sets
from training.recipe import PRESETS, Recipe, recipe_for
from training.trainer import Trainer

from .runs import FLAGS, RECIPE, read_metrics, run, same, train, weights


def trainer(
    folder: Path, out: Path, recipe: Recipe, clock: Callable[[], float] = time.monotonic
) -> Trainer:
    spec = PreprocessSpec(recipe.image_size)
    training, test = (load_dataset(folder, split, spec, quiet=True) for split in ("train", "test"))
    out.mkdir(exist_ok=True)
    return Trainer(recipe, out, training, test, clock=clock)


def test_infinite_loss_ends_the_run_within_its_epoch(folder: Path, tmp_path: Path) -> None:
    started = trainer(folder, tmp_path / "run", RECIPE)
    with torch.no_grad():
        started.network.cls_token[0] = float("nan")
    with pytest.raises(ModelError, match="the loss became nan; a lower learning rate may help"):
        started.run()
    assert started.epoch == 0
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("seconds", "saved"), [(0, [1, 2, 3, 4, 5]), (4, [1, 3, 5]), (99, [1, 3, 5])]
)
def test_short_epochs_are_saved_at_intervals(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    saved: list[int],
) -> None:
    """Always after the first epoch, before the rates fall, and after the last."""
    monkeypatch.setattr("training.trainer.SAVE_SECONDS", seconds)
    ticks: Iterator[float] = iter(range(1000))
    recipe = replace(RECIPE, epochs=5, decay_epochs=2)
    started = trainer(folder, tmp_path, recipe, lambda: next(ticks))
    seen = [row["epoch"] for row in started.epochs() if len(read_metrics(tmp_path)) == row["epoch"]]
    assert seen == saved
    steady = torch.load(tmp_path / "steady.pt", weights_only=True)
    assert len(steady["history"]) == recipe.decay_start


def test_resumed_run_uses_the_same_dropout_as_an_uninterrupted_run(
    folder: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, depth=3, dropout=0.3, layer_dropout=0.3)
    train(folder, tmp_path / "whole", recipe)
    train(folder, tmp_path / "parts", replace(recipe, epochs=2))
    torch.manual_seed(99)
    train(folder, tmp_path / "parts", recipe)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.thorough
def test_state_of_another_version_is_refused(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run", RECIPE)
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    del state["version"]
    torch.save(state, tmp_path / "run" / "last.pt")
    with pytest.raises(ModelError, match=r"last\.pt: written by another version of xcit-serve"):
        train(folder, tmp_path / "run", RECIPE)


def test_holdout_is_measured_instead_of_the_test_images(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = [*FLAGS.split(), "--epochs", 2, "--batch-size", 8, "--name", "tiny"]
    run(folder, out, *flags, "--holdout", 6)
    rows = read_metrics(out)
    assert list(rows[0]) == ["epoch", "rate", "train_loss", "holdout_accuracy"]
    provenance = read_checkpoint(out / "tiny.safetensors").spec.provenance
    assert provenance["images"] == "42"
    assert provenance["accuracy"].endswith("after 2 epochs, of 6 held-out training images")
    with pytest.raises(SystemExit, match=r"another recipe \(holdout differ\)"):
        run(folder, out, *flags, "--holdout", 8)


def test_training_images_and_holdout_are_disjoint(folder: Path) -> None:
    training, kept_out = load_sets(folder, PreprocessSpec(8), 10, quiet=True)
    everything = load_dataset(folder, "train", PreprocessSpec(8), quiet=True)
    paths = list_split(folder, "train")
    chosen = set(held_out(paths, 10))
    expected = torch.tensor([path in chosen for path in paths])
    assert torch.equal(kept_out.pixels, everything.pixels[expected])
    assert torch.equal(training.pixels, everything.pixels[~expected])
    assert kept_out.classes.bincount().tolist() == [5, 5]
    assert training.labels == kept_out.labels == ("blue", "red")


def test_too_large_holdout_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holdout is 47; it must be 0, or from 2 to 46"):
        run(folder, tmp_path / "run", *FLAGS.split(), "--holdout", 47)
    assert not (tmp_path / "run").exists()


def test_flags_override_the_preset() -> None:
    recipe = recipe_for(50_000, {"batch_size": 256, "epochs": 90}, "long")
    assert (recipe.batch_size, recipe.epochs, recipe.decay_epochs) == (256, 90, 45)
    assert recipe.depth == PRESETS["long"]["depth"]
    assert recipe_for(50_000, {}, "long").epochs == PRESETS["long"]["epochs"]


@pytest.mark.parametrize("preset", PRESETS)
def test_run_with_a_preset_can_be_prolonged(preset: str) -> None:
    short, long = (recipe_for(50_000, {"epochs": epochs}, preset) for epochs in (60, 80))
    assert replace(short, epochs=long.epochs, decay_epochs=long.decay_epochs) == long
    usual = recipe_for(50_000, {}, preset)
    assert usual.average ** (usual.epochs * (50_000 // usual.batch_size)) < 1e-6


def test_run_with_a_time_limit_writes_its_files_and_a_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, archive = tmp_path / "timed", tmp_path / "images.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(folder, "images")
    flags = f"{FLAGS} --batch-size 8 --holdout 6 --seconds 200 --most-epochs 3 --average 0.8"
    gpu_training.main([str(archive), "--out", str(out), *flags.split()])
    report = json.loads((out / "report.json").read_text())
    assert report["epochs"] == 3
    assert report["recipe"]["decay_epochs"] == 1
    assert report["test"]["images"] == 16
    assert report["last_epoch"]["holdout_accuracy"] == float(
        read_metrics(out)[-1]["holdout_accuracy"]
    )
    assert (out / "xcit-cifar10.safetensors").exists()
    assert "3 epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fails", "limit", "attempts", "status"),
    [
        ("none", 90, [""], 0),
        ("compiled", 90, ["", "--plain-steps"], 0),
        ("compiled", 50, [""], 3),  # too little time left
        ("all", 90, ["", "--plain-steps"], 3),
        ("evaluation", 90, [""], 3),  # the weights exist
    ],
)
def test_script_retries_with_plain_steps(
    tmp_path: Path, fails: str, limit: int, attempts: list[str], status: int
) -> None:
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh
        echo "$*" >>{tmp_path}/calls
        case {fails},"$*" in
            evaluation,*) touch {tmp_path}/out/report.json; exit 3;;
            all,* | compiled,*"--seconds {limit} --depth"*) exit 3;;
        esac
    """)
    python.chmod(0o755)
    script = Path(gpu_training.__file__).with_suffix(".sh")
    done = subprocess.run(
        ["sh", script, "data.tar", tmp_path / "out", "--depth", "2"],
        env={**os.environ, "PYTHON": str(python), "TRAIN_SECONDS": str(limit)},
        check=False,
        capture_output=True,
    )
    assert done.returncode == status
    calls = (tmp_path / "calls").read_text().splitlines()
    assert ["--plain-steps" if "--plain-steps" in call else "" for call in calls] == attempts
    assert all("data.tar --out" in call and "--depth 2" in call for call in calls)


@pytest.mark.parametrize(("pace", "epochs"), [(0.5, 300), (1.0, 227), (100.0, 2), (1000.0, 2)])
def test_number_of_epochs_follows_from_the_duration_of_one(pace: float, epochs: int) -> None:
    limits = gpu_training.Limits(seconds=270, most_epochs=300, clock=lambda: 0.0)
    assert gpu_training.epochs_that_fit(pace, limits) == epochs
