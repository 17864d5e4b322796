"""References in checkpoints: written, read, and not used for another model."""

import io
import json
import logging
import re
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from model.backends.base import BackendOptions
from model.checkpoint import read_checkpoint, rewrite_metadata, write_checkpoint
from model.drift import Figures, Reference, distances, figures_of, make_reference
from model.errors import CheckpointError, ModelError
from model.evaluation.reference import check_reference, choose_paths, evaluate_images
from model.images.preprocess import prepare
from model.inference.classifier import Classifier, load_classifier
from model.metadata.description import Overrides, self_description
from model.spec import ModelSpec
from model.weights.container import METADATA_KEY

State = dict[str, Tensor]
AGAIN = "it is not used; make it again with xcit-serve evaluate --reference"


def reference() -> Reference:
    figures = [Figures(i % 3, 0.2 + i / 20, 0.5, 0.5, 100) for i in range(10)]
    return make_reference(figures, 3)


@pytest.fixture
def path(tmp_path: Path, spec: ModelSpec, state: State) -> Path:
    path = tmp_path / "small.safetensors"
    write_checkpoint(path, replace(spec, reference=reference()), state)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine readable images of two sizes, of three classes, and one that is damaged."""
    for number in range(10):
        place = tmp_path / "images" / ("ant", "bee", "çöp")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(np.full((20, 20 + number % 2, 3), 20 * number, np.uint8))
        image.save(place / f"{number}.png")
    (tmp_path / "images/ant/9.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path / "images"


@pytest.fixture
def classifier(path: Path, _threads: None) -> Classifier:
    return load_classifier(path, options=BackendOptions(backend="torch", device="cpu"))


def store(path: Path, content: object) -> None:
    """Replace the stored reference."""
    with safe_open(path, "pt") as file:
        description = json.loads(file.metadata()[METADATA_KEY])
    description["reference"] = content
    rewrite_metadata(path, path, {METADATA_KEY: json.dumps(description)})


def test_reference_is_read_as_written(path: Path) -> None:
    assert read_checkpoint(path).spec.reference == reference()


def test_file_without_a_reference_is_written_as_before(spec: ModelSpec) -> None:
    assert "reference" not in self_description(spec)


def test_new_temperature_removes_the_reference(path: Path, spec: ModelSpec) -> None:
    changed = replace(spec, temperature=1.5, reference=reference())
    rewrite_metadata(path, path, {METADATA_KEY: self_description(changed)})
    found = read_checkpoint(path).spec
    assert (found.temperature, found.reference) == (1.5, None)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"temperature": 2.0}, "temperature 1, and the scores now use 2"),
        ({"preprocess": {"crop_pct": 1.0}}, "crop_pct 0.9, and the settings say 1"),
        ({"preprocess": {"mean": [0.5] * 3}}, r"mean \[0.4, 0.5, 0.6\], and the settings say"),
    ],
)
def test_reference_of_a_model_with_other_settings_is_not_used(
    path: Path, caplog: pytest.LogCaptureFixture, overrides: dict[str, Any], reason: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert read_checkpoint(path, Overrides(**overrides)).spec.reference is None
    (record,) = caplog.records
    pattern = f"^{path}: its reference was made with {reason}"
    assert re.search(pattern, record.getMessage())
    assert record.getMessage().endswith(AGAIN)


def test_same_settings_as_in_the_file_keep_the_reference(path: Path) -> None:
    same = Overrides(preprocess={"mean": [0.4, 0.5, 0.6]}, temperature=1.0)
    assert read_checkpoint(path, same).spec.reference


def test_reference_of_other_buckets_is_not_used(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store(path, {**reference().to_json(), "buckets": 2})
    assert read_checkpoint(path).spec.reference is None
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{path}: its reference has buckets of version 2; this release has 1: {AGAIN}"
    )


def test_damaged_reference_names_the_file(path: Path) -> None:
    store(path, {**reference().to_json(), "counts": {}})
    with pytest.raises(CheckpointError, match=f"^{path}: its reference has no counts of score"):
        read_checkpoint(path)
    store(path, [])
    with pytest.raises(CheckpointError, match=r"its reference is \[\]; expected a JSON object"):
        read_checkpoint(path)


def test_folder_gives_accuracy_and_the_figures_of_the_server(
    classifier: Classifier, folder: Path
) -> None:
    found = evaluate_images(classifier, folder, choose_paths(folder), workers=2, quiet=True)
    assert found.report
    assert (found.report.images, found.seen.images) == (9, 9)
    assert [line.partition(":")[0] for line in found.unreadable] == ["ant/9.png"]
    spec = classifier.spec
    classifier.backend.open()
    figures = []
    for path in choose_paths(folder):
        if path.name == "9.png":
            continue
        image = prepare((folder / path).read_bytes(), spec.preprocess)
        assert image.pixels in (400, 420)
        figures.append(figures_of(*image, classifier.logits([image.seen])[0], spec.temperatures))
    assert found.seen == make_reference(figures, 3)
    assert set(distances(found.seen, found.seen).values()) == {0.0}


def test_unlabelled_images_may_be_anywhere(classifier: Classifier, folder: Path) -> None:
    for path in folder.glob("*/*.png"):
        path.rename(folder / path.name)
    paths = choose_paths(folder, labelled=False)
    found = evaluate_images(classifier, folder, paths, labelled=False, quiet=True)
    assert found.report is None
    assert (len(paths), found.seen.images, len(found.unreadable)) == (10, 9, 1)


def test_unlabelled_images_of_an_archive(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        member = tarfile.TarInfo("flat.png")
        member.size = len(buffer.getvalue())
        tar.addfile(member, io.BytesIO(buffer.getvalue()))
    assert [*map(str, choose_paths(tmp_path / "images.tar", labelled=False))] == ["flat.png"]


def test_folder_without_images_is_named(tmp_path: Path) -> None:
    for labelled, example in ((False, "IMAGE.jpg"), (True, "LABEL/IMAGE.jpg")):
        with pytest.raises(ModelError, match=f"^{tmp_path}: no images.*expected .*{example}"):
            choose_paths(tmp_path, labelled=labelled)
    with pytest.raises(ModelError, match="/no/folder: cannot be read"):
        choose_paths(Path("/no/folder"), labelled=False)


def test_no_readable_image_names_the_first(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    paths = choose_paths(tmp_path, labelled=False)
    with pytest.raises(ModelError, match=r"none of the images could be read: 1.png: "):
        evaluate_images(classifier, tmp_path, paths, labelled=False, quiet=True)


def test_small_reference_is_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(ModelError, match=r"only 3 images; .* 10 classes needs at least 200"):
        check_reference(Path("x"), 3, 10)
    check_reference(Path("x"), 200, 10)
