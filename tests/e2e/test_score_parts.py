"""Parts of ``xcit-serve score`` that whole runs do not reach."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.cli.score import Bar
from app.loading import ScoringClassifier
from app.serving import errors
from model.errors import OutOfMemory

from .conftest import Run

pytestmark = pytest.mark.one_process("scoring has no server")


class Small:
    """A classifier for eight images, on a device that has memory for three."""

    max_batch_size = 8
    padded_size = time_batches = choose_batch_size = warm_up = None

    def __init__(self) -> None:
        self.backend = SimpleNamespace(streams=1)
        self.sizes: list[int] = []

    def predict(self, items: Sequence[int], top_k: int) -> list[int]:
        self.sizes.append(len(items))
        if len(items) > 3:
            raise OutOfMemory("the device is full")
        return [*items]


def test_batches_have_one_size_which_is_halved_when_memory_runs_out() -> None:
    model = Small()
    classifier = ScoringClassifier(model)  # type: ignore[arg-type]
    items: Any = [1, 2, 3, 4]
    with pytest.raises(errors.OutOfMemory):
        classifier.predict(items, 5)
    with pytest.raises(errors.OutOfMemory):
        classifier.predict(items[:2], 5)
    found: list[Any] = [*classifier.predict(items[:2], 5), *classifier.predict(items[:1], 5)]
    assert found == [1, 2, 1]
    assert model.sizes == [8, 4, 2, 2]


def test_bar_of_an_archive_estimates_its_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    source: Any = SimpleNamespace(total=None, share=0.25)
    row: Any = SimpleNamespace(failure=None)
    bad: Any = SimpleNamespace(failure="bad")
    with Bar() as bar:
        bar.start(source, 40)
        bar.add([row] * 9 + [bad])
    told = capsys.readouterr().err
    assert "resuming after 40 images" in told
    assert "50/200 [" in told
    assert "image/s, errors=1]" in told


def test_missing_pyarrow_is_reported_with_the_extra(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("app.scoring", "pyarrow"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, told = run("score", tmp_path, "--out", tmp_path / "out")
    assert (code, told) == (
        1,
        ["xcit-serve: pyarrow is not installed; pip install 'xcit-serve[score]' installs it"],
    )
