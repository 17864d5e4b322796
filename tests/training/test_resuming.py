"""Resuming, prolonging and repeating a run; states of other runs are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.errors import ModelError
from training.command import main

from .runs import FLAGS, RECIPE, read_metrics, run, same, train, weights

pytestmark = pytest.mark.thorough


def test_killed_run_ends_with_the_weights_of_an_uninterrupted_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(folder, tmp_path / "whole", RECIPE)

    step = torch.optim.AdamW.step
    steps = 0

    def die(self: torch.optim.AdamW, closure: None = None) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:  # in the middle of the second epoch
            raise KeyboardInterrupt
        step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", die)
    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "killed", RECIPE)
    assert len(read_metrics(tmp_path / "killed")) == 1
    train(folder, tmp_path / "killed", RECIPE)

    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    metrics = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "killed")]
    assert metrics[0] == metrics[1]


@pytest.mark.thorough
def test_finished_run_can_be_prolonged_from_where_its_rates_fell(
    folder: Path, tmp_path: Path
) -> None:
    longer = replace(RECIPE, epochs=5)
    train(folder, tmp_path / "whole", longer)
    train(folder, tmp_path / "prolonged", RECIPE)
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "prolonged"))
    train(folder, tmp_path / "prolonged", longer)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "prolonged"))


def test_finished_run_is_not_changed(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run", RECIPE)
    before = (tmp_path / "run" / "last.pt").stat().st_mtime_ns
    train(folder, tmp_path / "run", RECIPE)
    assert (tmp_path / "run" / "last.pt").stat().st_mtime_ns == before


def test_run_of_another_recipe_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    train(folder, tmp_path / "run", RECIPE)
    with pytest.raises(ModelError, match=r"another recipe \(dim, seed differ\)"):
        train(folder, tmp_path / "run", replace(RECIPE, dim=32, seed=1))


def test_run_with_other_labels_is_not_resumed(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    main(["run", str(folder), "--out", out, *FLAGS.split(), "--epochs", "1"])
    for split in ("train", "test"):
        (folder / split / "red").rename(folder / split / "crimson")
    with pytest.raises(SystemExit, match=r"labels are blue, red; .* blue, crimson; choose another"):
        main(["run", str(folder), "--out", out, *FLAGS.split(), "--epochs", "2"])


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4", None])
def test_invalid_state_file_is_refused(folder: Path, tmp_path: Path, content: bytes | None) -> None:
    state = tmp_path / "last.pt"
    if content is None:
        torch.save({"epoch": 3}, state)
    else:
        state.write_bytes(content)
    with pytest.raises(SystemExit, match=r"last\.pt: not a state from which a run"):
        main(["run", str(folder), "--out", str(tmp_path), *FLAGS.split()])


@pytest.mark.usefixtures("start", "undecoded")
def test_run_of_another_recipe_is_refused_before_decoding(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has a run of another recipe"):
        run(folder, tmp_path / "first", "--seed", 7)
