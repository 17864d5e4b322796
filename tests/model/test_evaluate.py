"""Evaluating a checkpoint on labelled images."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.backends.base import BackendOptions
from model.checkpoint import BUNDLED_CHECKPOINT, read_checkpoint, write_checkpoint
from model.errors import ModelError
from model.evaluation.evaluate import Answers, Results, evaluate, rank, report
from model.evaluation.reliability import reliability
from model.families.xcit import XCiT
from model.inference.classifier import Classifier, load_classifier
from model.spec import ModelSpec
from tests.documents import DOCUMENTS


@pytest.fixture
def classifier(tmp_path: Path, spec: ModelSpec, network: XCiT) -> Classifier:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, spec, network.state_dict())
    classifier = load_classifier(path, options=BackendOptions(streams=2, cores=2))
    classifier.backend.open()
    return classifier


def picture(seed: int) -> bytes:
    pixels = np.random.RandomState(seed).randint(0, 256, (20, 24, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def sort_by_answer(classifier: Classifier, folder: Path, count: int) -> None:
    """Write images into folders named after the classifier's answers."""
    for seed in range(count):
        data = picture(seed)
        (found,) = classifier.predict([classifier.preprocess(data)], 1)
        place = folder / found.predictions[0].label
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{seed}.png").write_bytes(data)


def test_all_images_count_if_folders_do_not_separate_splits(
    classifier: Classifier, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    sort_by_answer(classifier, folder, 21)
    (folder / "ant").mkdir(exist_ok=True)
    (folder / "ant" / "broken.jpg").write_bytes(b"\xff\xd8\xff" + b"broken")
    result = evaluate(classifier, folder, workers=2, batch_size=4, quiet=True)
    assert (result.images, result.top_1, result.top_5) == (21, 1, 1)
    (line,) = result.unreadable
    assert line.startswith("ant/broken.jpg: ")
    (folder / "ant").rename(folder / "aphid")
    with pytest.raises(
        ModelError, match=r"'aphid' matches none of the 3 classes of small; .*ant, bee"
    ):
        evaluate(classifier, folder, quiet=True)


def test_only_the_test_folder_counts_if_there_is_one(
    classifier: Classifier, tmp_path: Path
) -> None:
    sort_by_answer(classifier, tmp_path / "images" / "train", 6)
    sort_by_answer(classifier, tmp_path / "images" / "val", 3)
    assert evaluate(classifier, tmp_path / "images", quiet=True).images == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no images for split"):
        evaluate(classifier, tmp_path / "empty", quiet=True)


def test_calibration_error_is_the_gap_between_score_and_accuracy() -> None:
    right = np.array([True, True, True, False])
    assert reliability(np.full(4, 0.75), right).error == pytest.approx(0)
    assert reliability(np.full(4, 0.95), right).error == pytest.approx(0.2)
    assert reliability(np.array([1.0, 1.0, 1.0, 0.0]), right).error == pytest.approx(0)


def test_report_counts_by_rank_and_class(spec: ModelSpec) -> None:
    half = np.full(2, 0.5)
    first = Results(np.array([0, 1]), np.array([0, 4]), half, np.array([0.5, 0.1]), half)
    second = Results(np.array([1, 2]), np.array([0, 5]), half, np.array([0.5, 0.0]), half)
    result = report([first, second], replace(spec, labels=("ant", "bee", "cat", "dog")))
    assert (result.images, result.top_1, result.top_5) == (4, 0.5, 0.75)
    assert result.by_class == {"ant": 1, "bee": 0.5, "cat": 0}
    assert np.isfinite(result.negative_log_likelihood)
    assert "4 images: top-1 50.00%, top-5 75.00%" in str(result)


def test_figures_of_scores_are_those_of_their_definitions(spec: ModelSpec) -> None:
    logits = np.array([[2, 1, 0], [0, 1, 5], [1, 1, 0], [3, 0, 0]], np.float32)
    classes = np.array([0, 1, 2, 0])
    powers = np.exp(logits.astype(float) / 1.5)
    scores = powers / powers.sum(1, keepdims=True)
    true = scores[range(4), classes]
    parts = [Answers(classes[part], logits[part]) for part in (slice(1), slice(1, 4))]
    result = report([rank(part, (1.5, ())) for part in parts], replace(spec, temperature=1.5))
    assert result.temperature == 1.5
    assert result.top_1 == 0.5
    assert result.negative_log_likelihood == pytest.approx(-np.log(true).mean())
    assert result.brier_score == pytest.approx(((scores - np.eye(3)[classes]) ** 2).sum(1).mean())
    right = np.array([True, False, False, True])
    assert result.calibration_error == pytest.approx(reliability(scores.max(1), right).error)
    for line in ("temperature 1.5", f"Brier score {result.brier_score:.4f}"):
        assert line in str(result)


def test_model_card_checkpoint_and_metrics_give_the_same_accuracy() -> None:
    """The figure that `inspect` prints was measured by training and stored in the checkpoint."""
    folder = BUNDLED_CHECKPOINT.parent
    accuracy, _, rest = (
        read_checkpoint(BUNDLED_CHECKPOINT).spec.provenance["accuracy"].partition("%")
    )
    assert rest == " top-1 after 26 epochs"
    card = (folder / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+)% \|$", card, re.MULTILINE))
    assert rows.pop("top-1") == accuracy
    assert float(rows.pop("top-5")) > float(accuracy)
    by_class = [float(value) for value in rows.values()]  # 1,000 images each
    assert len(by_class) == 10
    assert sum(by_class) / 10 == pytest.approx(float(accuracy), abs=0.006)
    *_, last = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    assert f"{float(last['test_accuracy']):.2%}" == f"{accuracy}%"
    pages = [path.read_text() for path in DOCUMENTS]
    assert not any(re.search(r"88\.\d+ ?%", page) for page in pages), "one place is enough"
