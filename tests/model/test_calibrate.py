"""Choosing images, fitting, and storing a temperature in a checkpoint."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import pytest
from torch import Tensor, save

from model.checkpoint import read_checkpoint, write_changed, write_checkpoint
from model.errors import CheckpointError, InvalidImage, ModelError
from model.evaluation.calibrate import Calibration, calibrate, choose_images
from model.evaluation.diagram import diagram, write_diagram
from model.evaluation.holdout import held_out
from model.evaluation.reliability import BINS, reliability
from model.images.preprocess import Prepared
from model.inference.classifier import Classifier
from model.spec import ModelSpec

from .test_temperature import sample

LABELS = ("ant", "bee", "çöp")


class Stub:
    """Classifies "images" that are the text of their logits."""

    max_pixels = 1

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.backend = self

    def open(self) -> None: ...

    def logits(self, items: Sequence[Any]) -> Any:
        return np.concatenate(items)


def read_logits(data: bytes, *_: object, **__: object) -> Prepared:
    if not data:
        raise InvalidImage("truncated")
    return Prepared(np.array([data.split()], np.float32), 1)


@pytest.fixture(autouse=True)
def _images_are_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.evaluation.evaluate.prepare", read_logits)


def write_images(folder: Path, logits: Any, classes: Sequence[int], labels: Any = LABELS) -> None:
    for number, (row, place) in enumerate(zip(logits, classes, strict=True)):
        path = folder / labels[place] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(map(str, row)))


def run(spec: ModelSpec, folder: Path) -> Calibration:
    stub = cast("Classifier", Stub(spec))
    return calibrate(stub, folder, choose_images(folder), workers=2, quiet=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of three classes, whose best temperature is about 2."""
    logits, _ = sample(1, 400)
    drawn = np.random.default_rng(1).gumbel(size=(400, 3))
    write_images(tmp_path / "images", logits[:, :3], (logits[:, :3] / 2 + drawn).argmax(1))
    return tmp_path / "images"


def test_calibration_lowers_the_loss_and_keeps_the_accuracy(folder: Path, spec: ModelSpec) -> None:
    found = run(spec, folder)
    before, after = found.before.report, found.after.report
    assert found.spec.temperature == pytest.approx(2, rel=0.2)
    assert (before.temperature, after.temperature) == (1, found.spec.temperature)
    assert after.negative_log_likelihood < before.negative_log_likelihood
    assert after.calibration_error < before.calibration_error
    assert after.brier_score < before.brier_score
    assert (after.top_1, after.by_class) == (before.top_1, before.by_class)
    assert "temperature from 400 images" in found.spec.provenance["calibration"]
    assert found.spec.provenance["data"] == spec.provenance["data"]
    assert str(found).startswith("400 images of 3 of 3 classes: top-1 ")
    assert f"{before.brier_score:>8.4f}{after.brier_score:>9.4f}" in str(found)
    assert found.as_json()["after"]["temperature"] == found.spec.temperature


def test_calibrated_model_is_fitted_from_its_logits_again(folder: Path, spec: ModelSpec) -> None:
    first = run(spec, folder)
    again = run(replace(first.spec, temperature=0.5), folder)
    assert again.spec.temperature == first.spec.temperature
    assert again.before.report.temperature == 0.5


def test_unreadable_images_are_left_out_and_reported(folder: Path, spec: ModelSpec) -> None:
    expected = run(spec, folder).spec.temperature
    (folder / "bee" / "broken.jpg").write_bytes(b"")
    found = run(spec, folder)
    assert found.spec.temperature == expected
    assert found.after.report.images == 400
    assert found.after.report.unreadable == ["bee/broken.jpg: truncated"]


def refusal(spec: ModelSpec, folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        run(spec, folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder}: ")
    return str(caught.value)


def test_three_images_are_too_few(tmp_path: Path, spec: ModelSpec) -> None:
    write_images(tmp_path, np.eye(3), [0, 1, 2])
    assert "only 3 images; expected at least 100" in refusal(spec, tmp_path)


def test_mostly_unreadable_images_are_too_few(tmp_path: Path, spec: ModelSpec) -> None:
    write_images(tmp_path, np.eye(3)[[0] * 99], [0] * 99)
    (tmp_path / "bee").mkdir()
    (tmp_path / "bee" / "broken.jpg").write_bytes(b"")
    message = refusal(spec, tmp_path)
    assert "only 99 of 100 images could be read; expected at least 100" in message
    assert "bee/broken.jpg: truncated" in message


def test_images_of_one_class_are_refused(tmp_path: Path, spec: ModelSpec) -> None:
    write_images(tmp_path, np.zeros((100, 3)), [1] * 100)
    assert "all 100 images are in folder 'bee'; expected images of two" in refusal(spec, tmp_path)


def test_images_without_folders_are_refused(tmp_path: Path, spec: ModelSpec) -> None:
    for number in range(100):
        (tmp_path / f"{number}.jpg").write_text("1 0 0")
    message = refusal(spec, tmp_path)
    assert "its 100 images are in no folder; expected files such as LABEL/IMAGE.jpg" in message


def test_folders_that_are_not_labels_are_refused(tmp_path: Path, spec: ModelSpec) -> None:
    write_images(tmp_path, np.eye(3)[[0, 1] * 50], [0, 1] * 50, ("ant", "wasp"))
    assert "folder 'wasp' matches none of the 3 classes of small" in refusal(spec, tmp_path)


def test_images_that_are_all_right_are_refused(tmp_path: Path, spec: ModelSpec) -> None:
    logits, _ = sample(1, 100)
    write_images(tmp_path, logits[:, :3], logits[:, :3].argmax(1).tolist())
    assert "all 100 images are classified right" in refusal(spec, tmp_path)


def test_images_in_the_wrong_folders_are_refused(tmp_path: Path, spec: ModelSpec) -> None:
    logits, _ = sample(1, 100)
    write_images(tmp_path, logits[:, :3], logits[:, :3].argmin(1).tolist())
    message = refusal(spec, tmp_path)
    assert "the best one is above 20" in message
    assert "top-1 0.00%" in message


def test_large_scores_for_tiny_logits_are_refused(tmp_path: Path, spec: ModelSpec) -> None:
    logits, _ = sample(1, 100)
    classes = logits[:, :3].argmax(1)
    classes[0] = (classes[0] + 1) % 3
    write_images(tmp_path, logits[:, :3] / 1000, classes.tolist())
    assert "the best one is below 0.05" in refusal(spec, tmp_path)


def test_holdout_takes_the_images_that_training_left_out(tmp_path: Path) -> None:
    write_images(tmp_path / "train", np.eye(3)[[0, 1, 2] * 60], [0, 1, 2] * 60)
    write_images(tmp_path / "test", np.eye(3)[[0, 1] * 60], [0, 1] * 60)
    every = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("train/*/*"))
    chosen = choose_images(tmp_path, 150)
    assert [*map(Path, chosen)] == [*map(Path, held_out(cast("Any", every), 150))]
    assert len(choose_images(tmp_path)) == 120
    with pytest.raises(ModelError, match="holdout is 1000; it must be 0, or from 3 to 177"):
        choose_images(tmp_path, 1000)


@pytest.fixture
def checkpoint(tmp_path: Path, spec: ModelSpec, state: dict[str, Tensor]) -> Path:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, spec, state, dtype="bfloat16")
    return path


def test_self_describing_file_keeps_its_weights(
    checkpoint: Path, spec: ModelSpec, tmp_path: Path
) -> None:
    size = checkpoint.stat().st_size
    calibrated = replace(spec, temperature=0.7123)
    for target in (tmp_path / "other.safetensors", checkpoint):
        write_changed(read_checkpoint(checkpoint), target, calibrated)
        found = read_checkpoint(target)
        assert found.spec == calibrated
        assert found.description.origins["temperature"] == "metadata"
        assert found.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
        assert abs(target.stat().st_size - size) < 100, "the weights stay in 16 bits"


def test_file_that_was_replaced_in_the_meantime_is_refused(
    checkpoint: Path, spec: ModelSpec, state: dict[str, Tensor]
) -> None:
    read = read_checkpoint(checkpoint)
    write_checkpoint(checkpoint, spec, {key: tensor * 2 for key, tensor in state.items()})
    content = checkpoint.read_bytes()
    with pytest.raises(CheckpointError, match="replaced by another file in the meantime"):
        write_changed(read, checkpoint, replace(spec, temperature=2.0))
    assert checkpoint.read_bytes() == content


def test_raw_state_dict_becomes_a_self_describing_file(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    save(state, tmp_path / "raw.pt")
    raw = read_checkpoint(tmp_path / "raw.pt")
    assert raw.spec.temperature == 1
    assert raw.description.origins["temperature"] == "default"
    target = tmp_path / "new.safetensors"
    write_changed(raw, target, replace(raw.spec, temperature=2.0))
    found = read_checkpoint(target)
    assert found.self_describing
    assert found.spec == replace(raw.spec, temperature=2.0)


def test_files_without_a_temperature_are_those_of_older_releases(
    checkpoint: Path, spec: ModelSpec
) -> None:
    assert b"temperature" not in checkpoint.read_bytes().partition(b"}}")[0]
    assert read_checkpoint(checkpoint).spec.temperature == 1


def test_diagram_is_a_picture_of_the_bins(tmp_path: Path) -> None:
    scores = np.array([0.05, 0.5, 0.52, 0.99, 1.0])
    bins = reliability(scores, np.array([False, True, False, True, True]))
    assert bins.images.sum() == 5
    assert (bins.images[-1], bins.right[-1]) == (2, 1)
    path = tmp_path / "diagram.svg"
    write_diagram(path, (("before", bins), ("after", bins)))
    root = ElementTree.parse(path).getroot()
    rectangles = [e for e in root.iter() if e.tag.endswith("}rect")]
    filled = int((bins.images > 0).sum())
    assert len(rectangles) == 1 + 2 * (2 * BINS + filled)
    numbers = [float(n) for n in re.findall(r'="(-?[\d.]+)"', path.read_text())]
    assert min(numbers) >= 0
    assert f"calibration error {bins.error:.4f}" in diagram([("x", bins)])
    with pytest.raises(ModelError, match=r"no/where\.svg: cannot be written: No such file"):
        write_diagram(tmp_path / "no" / "where.svg", (("before", bins),))
