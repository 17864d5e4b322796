"""References made with ``xcit-serve evaluate``, as users type it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.checkpoint import read_checkpoint, write_checkpoint
from model.families.xcit import XCiT
from model.spec import ModelSpec, PreprocessSpec
from tests.model.conftest import HYPERPARAMETERS
from tests.model.published import realistic_weights

from .conftest import Run

pytestmark = pytest.mark.one_process("the command has no server")

COUNT = 210
ONE_THREAD = ("--backend", "torch", "--streams", "1", "--precision", "float32")
LABELS = ("ant", "bee", "cat")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    spec = ModelSpec(
        name="small",
        version="1",
        family="vit_pytorch",
        hyperparameters=HYPERPARAMETERS,
        preprocess=PreprocessSpec(16),
        labels=LABELS,
    )
    path = tmp_path / "mine.safetensors"
    write_checkpoint(path, spec, realistic_weights(XCiT(**HYPERPARAMETERS).state_dict()))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of any colour, in folders of classes."""
    folder = tmp_path_factory.mktemp("images")
    chance = np.random.default_rng(0)
    colours = chance.integers(0, 256, (COUNT, 1, 1, 3))
    pixels = ((colours + chance.integers(0, 256, (COUNT, 16, 16, 3))) // 2).astype(np.uint8)
    for number, each in enumerate(pixels):
        path = folder / LABELS[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(each).save(path)
    return folder


def evaluate(run: Run, *arguments: object) -> str:
    code, printed, complaints = run("evaluate", *arguments, *ONE_THREAD)
    assert (code, complaints) == (0, [])
    return printed


@pytest.mark.quick
def test_reference_is_stored_and_compared_with(run: Run, checkpoint: Path, images: Path) -> None:
    assert "distance" not in evaluate(run, checkpoint, images)
    printed = evaluate(run, checkpoint, images, "--reference")
    assert printed.startswith(f"{COUNT} images: top-1 ")
    assert printed.endswith(f"reference of {COUNT} images stored in {checkpoint}\n")
    assert f"reference                 {COUNT} images" in run("inspect", checkpoint)[1]
    alike = evaluate(run, checkpoint, images)
    assert alike.endswith(
        "distance from the reference (PSI): score 0.000, entropy 0.000, brightness 0.000, "
        "pixels 0.000, class 0.000\n"
    )
    report = json.loads(evaluate(run, checkpoint, images / "ant", "--unlabelled", "--json"))
    assert report["images"] == COUNT // 3
    assert set(report["distance"]) == {"score", "entropy", "brightness", "pixels", "class"}


def test_reference_is_written_to_another_file_from_unlabelled_images(
    run: Run, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    before, out = checkpoint.read_bytes(), tmp_path / "out.safetensors"
    arguments = ("--reference", "--unlabelled", "--out", out, "--json")
    report = json.loads(evaluate(run, checkpoint, images, *arguments))
    assert report.keys() == {"images", "unreadable", "reference"}
    found = read_checkpoint(out).spec.reference
    assert found
    assert report["reference"] == found.to_json()
    assert found.images == sum(found.counts["score"]) == COUNT
    assert found.counts["pixels"][0] == COUNT
    assert checkpoint.read_bytes() == before


def test_reference_of_raw_weights_needs_another_file(
    run: Run, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    raw = tmp_path / "raw.pt"
    torch.save(dict(read_checkpoint(checkpoint).state), raw)
    code, _, (complaint,) = run("evaluate", raw, images, "--reference")
    assert code == 2
    assert f"{raw} does not describe itself; write another file with --out" in complaint


def test_another_temperature_removes_the_reference(
    run: Run, checkpoint: Path, images: Path
) -> None:
    evaluate(run, checkpoint, images, "--reference")
    code, _, complaints = run("calibrate", checkpoint, images, *ONE_THREAD)
    if code:  # these labels say nothing, so no temperature fits
        assert "no temperature fits" in complaints[0]
        known = read_checkpoint(checkpoint)
        write_checkpoint(checkpoint, replace(known.spec, temperature=2.0), known.state)
    else:
        assert f"{checkpoint}: the reference is removed, because the scores" in complaints[0]
    assert read_checkpoint(checkpoint).spec.reference is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--out", "new.safetensors"), 2, "--out: only with --reference"),
        (("--reference", "--out", "new.pt"), 2, "new.pt: the output's name must end in .safetens"),
        (("--reference", "--out", "no/x.safetensors"), 2, "no/x.safetensors: cannot be written"),
        (("--holdout", "9", "--unlabelled"), 2, "--holdout: not with --unlabelled"),
        (("--reference", "--holdout", "1"), 1, "holdout is 1; it must be 0, or from 3 to"),
        (("--reference", "--holdout", "30"), 1, "only 30 images; a reference for 3 classes needs"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    run: Run, checkpoint: Path, images: Path, arguments: Sequence[str], code: int, message: str
) -> None:
    before = checkpoint.read_bytes()
    found, printed, (complaint,) = run("evaluate", checkpoint, images, *arguments)
    assert (found, printed) == (code, "")
    assert message in complaint
    assert checkpoint.read_bytes() == before


def test_folders_without_enough_images_are_named(
    run: Run, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, _, (complaint,) = run("evaluate", checkpoint, empty, "--reference", "--unlabelled")
    assert (code, complaint) == (
        1,
        f"xcit-serve: {empty}: no images; expected files such as IMAGE.jpg",
    )
    for number in range(3):
        (empty / f"{number}.png").write_bytes((images / "ant/0.png").read_bytes())
    code, _, (complaint,) = run("evaluate", checkpoint, empty, "--reference", "--unlabelled")
    assert code == 1
    assert complaint == (
        f"xcit-serve: {empty}: only 3 images; a reference for 3 classes needs at least 200, and "
        "better thousands"
    )
    code, _, (complaint,) = run("evaluate", checkpoint, empty, "--reference")
    assert code == 1
    assert "its 3 images are in no folder; expected files such as LABEL/IMAGE.jpg" in complaint
