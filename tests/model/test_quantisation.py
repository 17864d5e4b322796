"""Quantising a small network with NNCF, and running it in 8-bit integers on OpenVINO."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from model.backends.agreement import probabilities, self_test_images
from model.backends.base import BackendOptions
from model.backends.choose import Choice, choose_backend
from model.backends.openvino import OpenVINOBackend
from model.backends.openvino_graph import to_graph
from model.backends.openvino_int8 import quantise_graph
from model.backends.timing import Effort
from model.checkpoint import (
    Checkpoint,
    read_checkpoint,
    rewrite_metadata,
    write_checkpoint,
    write_quantised,
)
from model.errors import CheckpointError, ModelError
from model.families.registry import FAMILIES
from model.families.simplify import baseline, simplify_published
from model.families.xcit_published import PublishedXCiT
from model.inference.classifier import load_classifier
from model.metadata.quantisation import MAX_TOLERANCE, QUANTISATION_KEY, Quantisation
from model.quantisation.calibrate import find_largest_inputs
from model.quantisation.differences import Differences, compare
from model.quantisation.images import divide
from model.quantisation.quantise import Report, choose_layers, quantise
from model.quantisation.speed import Speed
from model.scores import softmax
from model.spec import PreprocessSpec

from .conftest import HYPERPARAMETERS
from .published import realistic_weights
from .quantisable import write_images, write_original

pytestmark = [pytest.mark.thorough, pytest.mark.usefixtures("_threads")]


@dataclass(frozen=True, slots=True)
class Made:
    """A quantised checkpoint, and what it was made from."""

    path: Path
    original: Path
    images: Path
    quantisation: Quantisation
    report: Report

    def copy(self, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
        """A copy whose quantisation was changed."""
        document = json.loads(metadata(self.path)[QUANTISATION_KEY])
        change(document)
        rewrite_metadata(self.path, path, {QUANTISATION_KEY: json.dumps(document)})
        return path


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("quantised")
    images = write_images(directory / "images", 120)
    original = write_original(directory / "original.safetensors", images)
    checkpoint = read_checkpoint(original)
    with pytest.MonkeyPatch.context() as patch:
        quick = (Effort(rounds=2, limit=0.1),)
        patch.setattr("model.quantisation.speed.rates_by_size.__defaults__", quick)
        quantisation, report = quantise(checkpoint, images, max_drop=5, labelled=False, quiet=True)
    path = directory / "quantised.safetensors"
    write_quantised(path, checkpoint, quantisation)
    return Made(path, original, images, quantisation, report)


def chosen(checkpoint: Checkpoint, **options: Any) -> Choice:
    spec = checkpoint.spec
    return choose_backend(
        lambda: FAMILIES[spec.family].simplify(checkpoint.build(), spec.preprocess),
        spec.preprocess.image_size,
        probabilities(baseline(checkpoint.build(), spec.preprocess), spec.preprocess.image_size),
        BackendOptions(**options),
        quantisation=checkpoint.quantisation,
    )


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def refused(made: Made, images: Path, *, labelled: bool = False, max_drop: float = 5) -> str:
    checkpoint = read_checkpoint(made.original)
    with pytest.raises(ModelError) as caught:
        quantise(checkpoint, images, max_drop=max_drop, labelled=labelled, quiet=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_quantised_checkpoint_runs_in_int8_and_agrees_with_its_original(made: Made) -> None:
    backend, reason, _ = chosen(read_checkpoint(made.path))
    assert (backend.name, backend.device, backend.precision) == ("openvino", "cpu", "int8")
    assert reason == "the checkpoint is quantised; agrees with 32-bit PyTorch"
    assert 0.9 <= made.report.differences.agreement <= 1
    assert 0 < made.report.differences.mean_change < 0.05


def test_every_large_linear_layer_is_in_int8(made: Made) -> None:
    layers = {
        f"xcit_transformer.layers.{layer}.{name}"
        for layer in range(HYPERPARAMETERS["depth"])
        for name in ("0.to_qkv", "0.to_out.0", "2.net.1", "2.net.4")
    }
    assert set(made.quantisation.layers) == {"to_patch_embedding.2", *layers}


def test_embeddings_in_int8_agree_with_the_original(made: Made) -> None:
    options = BackendOptions(streams=1)
    classifier = load_classifier(made.path, options=options, embeds=True)
    assert classifier.backend.precision == "int8"


def test_large_layers_of_published_networks_are_found_and_quantised() -> None:
    hyperparameters = {"patch_size": 16, "num_classes": 3, "dim": 32, "depth": 1, "cls_depth": 1}
    network = PublishedXCiT(**hyperparameters, heads=2, mlp_dim=64, tokens_norm=True).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    pixels = self_test_images(64)
    graph = to_graph(simplify_published(network, PreprocessSpec(64)), 64)
    inputs = find_largest_inputs(graph, pixels)
    blocks = {f"blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert set(inputs) == {*blocks, *(f"patch_embed.proj.{place}" for place in (2, 4, 6))}
    found = [
        softmax(
            OpenVINOBackend(each, precision, streams=1, threads=1, rest="float32").logits(pixels)
        )
        for each, precision in ((graph, "float32"), (quantise_graph(graph, inputs), "int8"))
    ]
    assert 0 < np.abs(found[1] - found[0]).max() < 0.05


def test_weights_and_other_metadata_travel_along(made: Made) -> None:
    before, after = read_checkpoint(made.original), read_checkpoint(made.path)
    assert after.spec == before.spec
    assert all(torch.equal(after.state[key], before.state[key]) for key in before.state)
    assert metadata(made.path)["xcit_other"] == "kept"
    assert after.quantisation == made.quantisation
    assert before.quantisation is None


def test_raw_weights_become_a_checkpoint_that_describes_itself(made: Made, tmp_path: Path) -> None:
    original = read_checkpoint(made.original)
    raw = replace(original, self_describing=False)
    write_quantised(tmp_path / "q.safetensors", raw, made.quantisation)
    assert read_checkpoint(tmp_path / "q.safetensors").quantisation == made.quantisation


def test_full_disk_is_one_line_and_leaves_the_old_file(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "old.safetensors"
    path.write_text("old")
    monkeypatch.setattr("model.checkpoint.copy_with_metadata", fail)
    with pytest.raises(CheckpointError) as caught:
        write_quantised(path, read_checkpoint(made.original), made.quantisation)
    assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert [entry.name for entry in tmp_path.iterdir()] == ["old.safetensors"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_named_precision_runs_the_original_weights(made: Made, precision: str) -> None:
    assert chosen(read_checkpoint(made.path), precision=precision).backend.precision == precision


@pytest.mark.parametrize("options", [{"backend": "torch"}, {"device": "cuda:0"}])
def test_other_backends_are_refused(made: Made, options: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=r"quantised to int8, which openvino on cpu runs, not"):
        chosen(read_checkpoint(made.path), **options)


def test_int8_without_openvino_is_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.backends.choose.openvino_is_installed", lambda: False)
    with pytest.raises(ModelError, match=r"not installed: pip install 'xcit-serve\[openvino\]'"):
        chosen(read_checkpoint(made.path))


def test_changed_input_range_is_refused_by_the_digest(made: Made, tmp_path: Path) -> None:
    def halve(document: dict[str, Any]) -> None:
        name = next(iter(document["layers"]))
        document["layers"][name] /= 2

    message = refusal(made.copy(tmp_path / "changed.safetensors", halve))
    assert "its quantisation was made for other weights, or was changed: the digest is" in message


def test_other_weights_are_refused_by_the_digest(made: Made, tmp_path: Path) -> None:
    original = read_checkpoint(made.original)
    state = {**original.state}
    state["cls_token"] = state["cls_token"] + 0.001
    path = tmp_path / "other.safetensors"
    entry = {QUANTISATION_KEY: made.quantisation.to_json(original.state)}
    write_checkpoint(path, original.spec, state, extras=entry)
    assert "its quantisation was made for other weights" in refusal(path)


def test_wrong_input_range_with_a_right_digest_fails_the_self_test(
    made: Made, tmp_path: Path
) -> None:
    original = read_checkpoint(made.original)
    layers = {name: largest / 30 for name, largest in made.quantisation.layers.items()}
    path = tmp_path / "wrong.safetensors"
    write_quantised(path, original, replace(made.quantisation, layers=layers))
    with pytest.raises(ModelError, match=r"not openvino in int8 on cpu: a probability is off by"):
        chosen(read_checkpoint(path))


def test_layers_of_another_network_are_refused(made: Made, tmp_path: Path) -> None:
    original = read_checkpoint(made.original)
    path = tmp_path / "other.safetensors"
    write_quantised(path, original, replace(made.quantisation, layers={"blocks.0.attn.qkv": 1.0}))
    with pytest.raises(ModelError, match=r"no layer 'blocks.0.attn.qkv' to compute in int8"):
        chosen(read_checkpoint(path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format_version": 2}, "format_version of its quantisation is 2; this release reads 1"),
        ({"layers": {}}, "layers is an object; expected 1 to 2000 layers"),
        ({"layers": {"a": 0}}, "the largest input of layer 'a' is 0; it must be a number from"),
        ({"layers": {"a": True}}, "the largest input of layer 'a' is true"),
        ({"layers": {"a\n": 1}}, "the name of a layer contains the control character U+000A"),
        ({"tolerance": 1}, f"tolerance is 1; it must be above 0 and at most {MAX_TOLERANCE}"),
        ({"embedding_tolerance": -1}, "embedding_tolerance is -1; it must be above 0"),
        ({"images": 0}, "images is 0; expected a whole number above 0"),
        ({"images_sha256": 5}, "images_sha256 is 5; expected text"),
        ({"figures": {"a": 1}}, "figures 'a' is 1; expected text"),
        ({"versions": []}, "versions is []; expected texts by name"),
        ({"more": 1}, "'more' is unknown"),
        ({"sha256": None}, "the file says null"),
    ],
)
def test_malformed_quantisation_is_refused(
    made: Made, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    path = made.copy(tmp_path / "bad.safetensors", lambda document: document.update(change))
    assert told in refusal(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"format_version": 1}'])
def test_metadata_of_another_kind_is_refused(made: Made, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.safetensors"
    rewrite_metadata(made.path, path, {QUANTISATION_KEY: text})
    refusal(path)


def test_three_images_are_too_few(made: Made, tmp_path: Path) -> None:
    message = refused(made, write_images(tmp_path / "few", 3))
    assert message.endswith("few: 3 images; at least 100 are needed, better 1,300")


def test_folder_without_images_is_refused(made: Made, tmp_path: Path) -> None:
    assert "no images; expected files such as IMAGE.jpg" in refused(made, tmp_path)


def test_unlabelled_images_are_refused_where_labels_are_needed(made: Made, tmp_path: Path) -> None:
    for image in made.images.rglob("*.png"):
        shutil.copy(image, tmp_path)
    message = refused(made, tmp_path, labelled=True)
    assert message.endswith(
        "its 120 images are in no folder; expected files such as LABEL/IMAGE.jpg"
    )


def test_folder_that_is_no_class_is_refused(made: Made, tmp_path: Path) -> None:
    images = shutil.copytree(made.images, tmp_path / "images")
    (images / "bee").rename(images / "wasp")
    message = refused(made, images, labelled=True)
    assert "folder 'wasp' matches none of the 3 classes of small" in message


def test_images_of_a_single_class_are_refused(made: Made, tmp_path: Path) -> None:
    images = shutil.copytree(made.images, tmp_path / "all")
    (images / "ant").rename(tmp_path / "ant")
    for name in ("bee", "çöp"):
        for image in (images / name).iterdir():
            image.rename(tmp_path / "ant" / f"{name}{image.name}")
    one = tmp_path / "one"
    one.mkdir()
    (tmp_path / "ant").rename(one / "ant")
    assert "every image is of class 'ant'" in refused(made, one, labelled=True)


def test_images_that_all_get_the_same_class_are_refused(made: Made, tmp_path: Path) -> None:
    for number in range(100):
        Image.new("RGB", (16, 16), (200, 50, 50)).save(tmp_path / f"{number}.png")
    message = refused(made, tmp_path)
    assert "the model gives every image the class" in message


def test_quantised_checkpoint_is_not_quantised_again(made: Made) -> None:
    with pytest.raises(ModelError, match="already quantised; give the original checkpoint"):
        quantise(read_checkpoint(made.path), made.images, max_drop=5, labelled=False)


def test_calibration_and_measured_images_differ_where_there_are_enough() -> None:
    def paths(folder: str, count: int) -> list[PurePosixPath]:
        return [PurePosixPath(f"{folder}/ant/{number}.png") for number in range(count)]

    calibration, measured = divide(paths("x", 2000))
    assert (len(calibration), len(measured)) == (300, 1000)
    assert not set(calibration) & set(measured)
    assert divide(paths("x", 350)) == (paths("x", 300), paths("x", 350))
    calibration, measured = divide(paths("test", 500) + paths("train", 400))
    assert calibration == paths("train", 300)
    assert measured == paths("test", 500)


def differences(agreement: float, change: float = 0.0) -> Differences:
    return Differences(
        images=100, agreement=agreement, top_5=1, mean_change=change, greatest_change=change
    )


def test_the_most_harmful_layers_stay_in_floating_point() -> None:
    harm = {"a": 0.001, "b": 0.03, "c": 0.002, "d": 0.01}

    def measure(layers: dict[str, float], count: int | None = None) -> Differences:
        total = sum(harm[name] for name in layers)
        return differences(1 - total, total)

    layers, found = choose_layers(dict.fromkeys(harm, 1.0), measure, 0.5, quiet=True)
    assert list(layers) == ["a", "c"]
    assert found.drop == pytest.approx(0.3)
    assert list(choose_layers(dict.fromkeys(harm, 1.0), measure, 5, quiet=True)[0]) == list(harm)


def test_no_layer_within_the_maximum_drop_is_an_error() -> None:
    def measure(layers: dict[str, float], count: int | None = None) -> Differences:
        return differences(0.9)

    with pytest.raises(ModelError, match=r"no layer can .* lose 10.00 points, .* more than 0.5;"):
        choose_layers({"a": 1.0, "b": 1.0}, measure, 0.5, quiet=True)


def test_differences_count_images_and_accuracy() -> None:
    before = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], np.float32))
    after = np.log(np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], np.float32))
    found = compare(before, after, np.array([0, 2]))
    assert (found.agreement, found.top_5) == (0.5, 1)
    assert (found.accuracy_before, found.accuracy_after, found.drop) == (0.5, 1, -50)
    assert found.greatest_change == pytest.approx(0.2)
    assert compare(before, after, None).drop == 50


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ({"float32": 100, "int8": 200}, "int8 pays on this machine: 2.00 x float32"),
        ({"float32": 100, "int8": 105}, "its layers take only 40% of a pass in float32"),
        (
            {"float32": 100, "bfloat16": 250, "int8": 200},
            "int8 does not pay on this machine: 2.00 x float32, 0.80 x bfloat16; bfloat16 has",
        ),
    ],
)
def test_verdict_compares_with_the_fastest_alternative(rates: dict[str, float], told: str) -> None:
    assert told in Speed(rates, 0.4).verdict
