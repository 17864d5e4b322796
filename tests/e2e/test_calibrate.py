"""A checkpoint is calibrated, and every route and command gives its new scores."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from app.cli.options import in_place
from app.config.settings import SettingsError
from model.checkpoint import read_checkpoint, write_checkpoint
from model.families.simplify import baseline
from model.families.xcit import XCiT
from model.scores import Logits, Scores, softmax
from model.spec import ModelSpec, PreprocessSpec
from tests.model.conftest import HYPERPARAMETERS
from tests.model.published import realistic_weights
from tests.server_process import Server

from .conftest import Run, StartServer

ONE_THREAD = ("--backend", "torch", "--streams", "1", "--precision", "float32")
COUNT = 120
alone = pytest.mark.one_process("these commands start no server")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small network of three classes."""
    torch.manual_seed(0)
    state = realistic_weights(XCiT(**HYPERPARAMETERS).state_dict())
    state["mlp_head.1.weight"] *= 3
    spec = ModelSpec(
        name="small",
        version="1",
        family="vit_pytorch",
        hyperparameters=HYPERPARAMETERS,
        preprocess=PreprocessSpec(16, interpolation="nearest"),
        labels=("ant", "bee", "cat"),
    )
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    write_checkpoint(path, spec, state)
    return path


@pytest.fixture(scope="module")
def images(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of any colour, in folders named after classes with the probabilities at 2."""
    folder = tmp_path_factory.mktemp("images")
    checkpoint = read_checkpoint(original)
    network = baseline(checkpoint.build(), checkpoint.spec.preprocess)
    chance = np.random.default_rng(0)
    shape = (COUNT, 16, 16, 3)
    colours = chance.integers(0, 256, (COUNT, 1, 1, 3))
    pixels = ((colours + chance.integers(0, 256, shape)) // 2).astype(np.uint8)
    with torch.inference_mode():
        logits = network(torch.from_numpy(pixels)).numpy()
    classes = (logits / 2 + chance.gumbel(size=logits.shape)).argmax(1)
    for number, place in enumerate(classes.tolist()):
        path = folder / checkpoint.spec.labels[place] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[number]).save(path)
    return folder


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(original.read_bytes())
    return path


def calibrate(run: Run, *arguments: object) -> str:
    code, printed, complaints = run("calibrate", *arguments, *ONE_THREAD)
    assert (code, complaints) == (0, [])
    return printed


@alone
@pytest.mark.quick
def test_calibrate_stores_the_temperature_that_it_prints(
    run: Run, checkpoint: Path, original: Path, images: Path
) -> None:
    printed = calibrate(run, checkpoint, images)
    found = read_checkpoint(checkpoint)
    assert found.spec.temperature > 1
    assert f"temperature after: {found.spec.temperature:g}\n" in printed
    assert f"temperature stored in {checkpoint}" in printed
    diagram = checkpoint.with_name("mine.reliability.svg")
    assert f"reliability diagram in {diagram}" in printed
    assert "calibration error" in diagram.read_text()
    state = read_checkpoint(original).state
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.state.items())
    shown = run("inspect", checkpoint)[1]
    assert f"{found.spec.temperature}  (metadata)" in shown
    assert f"temperature from {COUNT} images: calibration error" in shown


@alone
def test_calibrated_checkpoint_is_calibrated_again_from_raw_logits(
    run: Run, checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = json.loads(calibrate(run, checkpoint, images, "--json"))
    monkeypatch.setenv("XCIT_TEMPERATURE", "3")  # not that of the file
    again = json.loads(calibrate(run, checkpoint, images, "--json"))
    assert first["before"]["temperature"] == 1
    assert again["before"] == again["after"] == first["after"]


@alone
def test_evaluate_prints_the_same_figures(run: Run, checkpoint: Path, images: Path) -> None:
    figures = json.loads(calibrate(run, checkpoint, images, "--json"))
    for when, more in (("before", ["--temperature", "1"]), ("after", [])):
        report = json.loads(run("evaluate", checkpoint, images, "--json", *more, *ONE_THREAD)[1])
        for name, value in figures[when].items():
            assert report[name] == pytest.approx(value)
        assert figures["top_1"] == report["top_1"]


@alone
def test_raw_weights_are_calibrated_into_another_file(
    run: Run, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    raw, out = tmp_path / "raw.pt", tmp_path / "out.safetensors"
    known = read_checkpoint(checkpoint)
    torch.save(dict(known.state), raw)
    labels, preprocess = tmp_path / "labels.txt", tmp_path / "preprocess.json"
    labels.write_text("\n".join(known.spec.labels))
    preprocess.write_text(json.dumps({"image_size": 16, "interpolation": "nearest"}))
    code, _, (complaint,) = run("calibrate", raw, images)
    assert code == 2
    assert f"{raw} does not describe itself; write another file with --out" in complaint
    calibrate(run, raw, images, "--out", out, "--plot", tmp_path / "plot.svg")
    spec = read_checkpoint(out).spec
    assert (spec.labels, spec.preprocess) == (known.spec.labels, known.spec.preprocess)
    assert spec.temperature > 1
    assert (tmp_path / "plot.svg").is_file()
    converted = tmp_path / "converted.safetensors"
    assert run("convert", out, converted, "--dtype", "bfloat16")[0] == 0
    assert read_checkpoint(converted).spec == spec


@alone
def test_unreadable_image_is_reported_and_left_out(
    run: Run, checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "images"
    for path in images.glob("*/*.png"):
        copy = broken / path.relative_to(images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (broken / "bee" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    code, printed, (complaint,) = run("calibrate", checkpoint, broken, *ONE_THREAD)
    assert code == 1
    assert printed.startswith(f"{COUNT} images of 3 of 3 classes: ")
    assert "bee/broken.png: the PNG header is truncated" in complaint
    assert read_checkpoint(checkpoint).spec.temperature > 1


@alone
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--out", "new.pt"), 2, "new.pt: the output's name must end in .safetensors"),
        (("--plot", "new.png"), 2, "new.png: the output's name must end in .svg"),
        (("--out", "no/where.safetensors"), 2, "no/where.safetensors: cannot be written: No such"),
        (("--holdout", "1"), 1, "holdout is 1; it must be 0, or from 3 to"),
        (("--holdout", "5"), 1, "only 5 images; expected at least 100"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    run: Run, checkpoint: Path, images: Path, arguments: Sequence[str], code: int, message: str
) -> None:
    before = checkpoint.read_bytes()
    found, printed, (complaint,) = run("calibrate", checkpoint, images, *arguments)
    assert (found, printed) == (code, "")
    assert message in complaint
    assert checkpoint.read_bytes() == before
    assert not list(checkpoint.parent.glob("*.svg"))


@alone
def test_link_is_not_replaced(run: Run, checkpoint: Path, images: Path) -> None:
    link = checkpoint.with_name("current.safetensors")
    link.symlink_to(checkpoint)
    code, _, (complaint,) = run("calibrate", link, images)
    assert code == 2
    assert f"{link} is a link; write another file with --out FILE.safetensors" in complaint


@alone
def test_downloaded_file_is_not_replaced(checkpoint: Path) -> None:
    with pytest.raises(SettingsError, match="was downloaded into a cache; write another file"):
        in_place("hf-hub:owner/name", read_checkpoint(checkpoint))


def test_served_scores_use_the_temperature_and_logits_stay_raw(
    start_server: StartServer, checkpoint: Path, images: Path, run: Run
) -> None:
    known = read_checkpoint(checkpoint)
    steps = ((0.5, 2.0), (1.0, 0.5))
    spec = replace(known.spec, temperature=2.5, gap_temperatures=steps)
    write_checkpoint(checkpoint, spec, known.state)
    photo = min(images.glob("*/*.png"))
    server = start_server(checkpoint=checkpoint, backend="torch", precision="float32")
    assert server.client.get("/healthz").json()["model"]["temperature"] == 2.5
    metadata = server.client.get("/v2/models/xcit").json()
    assert metadata["parameters"] == {
        "temperature": 2.5,
        "gap_temperatures": "[[0.5, 2.0], [1.0, 0.5]]",
    }

    logits, probabilities = outputs(server, photo)
    assert probabilities == pytest.approx(softmax(logits, (2.5, steps)), abs=1e-6)
    rows = server.post(photo.read_bytes()).json()["predictions"]
    ranking = (-logits).argsort().tolist()
    batch = server.client.post("/predict/batch", files={"file": photo.read_bytes()}).json()
    for found, scores in (
        (rows, probabilities),
        (batch["results"][0]["predictions"], probabilities),
        (predict(run, photo, checkpoint), probabilities),
        (predict(run, photo, checkpoint, "--temperature", "1"), softmax(logits)),
    ):
        expected = {class_id: float(scores[class_id]) for class_id in ranking}
        assert [row["class_id"] for row in found] == ranking
        assert {row["class_id"]: row["score"] for row in found} == pytest.approx(expected, abs=1e-5)


def predict(run: Run, photo: Path, checkpoint: Path, *more: str) -> Any:
    """The rows that the command prints."""
    arguments = ("--checkpoint", checkpoint, "--json", *ONE_THREAD[:2], *ONE_THREAD[4:], *more)
    return json.loads(run("predict", photo, *arguments)[1])[0]["predictions"]


def outputs(server: Server, photo: Path) -> tuple[Logits, Scores]:
    """Logits and probabilities of an image by the Open Inference Protocol."""
    data = base64.b64encode(photo.read_bytes()).decode()
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [data]}
    answer = server.client.post("/v2/models/xcit/infer", json={"inputs": [image]}).json()
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    return np.array(found["logits"], np.float32), np.array(found["probabilities"], np.float32)
