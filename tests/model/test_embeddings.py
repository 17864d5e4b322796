"""Embeddings: the class token before the classifier, with and without a classifier."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.backends.agreement import disagreement, reference
from model.backends.base import Backend, BackendOptions
from model.checkpoint import read_checkpoint
from model.errors import CheckpointError
from model.families.registry import FAMILIES, OutputAndInput, add_embedding
from model.families.simplify import baseline
from model.families.xcit import XCiT
from model.inference.classifier import load_classifier
from model.metadata.description import Overrides
from model.spec import PreprocessSpec

from .conftest import HYPERPARAMETERS
from .published import random_images, realistic_weights
from .test_backends import noise, on_openvino, on_torch
from .test_xcit_published import TINY, network

pytestmark = pytest.mark.usefixtures("_threads")

Save = Callable[[object], Path]
BUILDS = {"vit_pytorch": lambda **more: XCiT(**{**HYPERPARAMETERS, **more}), "published": network}
SIZES = {"vit_pytorch": HYPERPARAMETERS["image_size"], "published": 32}
KEEP = {"vit_pytorch": HYPERPARAMETERS, "published": TINY}


def build(family: str, **more: Any) -> nn.Module:
    built = BUILDS[family](**{**KEEP[family], **more})
    built.load_state_dict(realistic_weights(built.state_dict()))
    return built.eval()


def captured(built: nn.Module, family: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of an unchanged network, and what its classifier reads, by a hook."""
    seen: list[Tensor] = []
    layer = built.get_submodule(FAMILIES[family].head)
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        logits = built(images)
    return logits, seen[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pass_gives_the_same_logits_and_the_input_of_the_classifier(family: str) -> None:
    images = random_images(3, SIZES[family], SIZES[family])
    logits, embedding = captured(build(family), family, images)
    with torch.inference_mode():
        found = add_embedding(build(family), family)(images)
    classes = KEEP[family]["num_classes"]
    assert torch.equal(found[:, :classes], logits)
    assert torch.equal(found[:, classes:], embedding)
    assert embedding.shape == (3, KEEP[family]["dim"])


@pytest.mark.parametrize("family", FAMILIES)
def test_network_without_classes_returns_the_same_embedding(family: str) -> None:
    images = random_images(3, SIZES[family], SIZES[family])
    _, embedding = captured(build(family), family, images)
    headless = add_embedding(build(family, num_classes=0), family)
    assert not any(isinstance(module, OutputAndInput) for module in headless.modules())
    with torch.inference_mode():
        assert torch.equal(headless(images), embedding)


@pytest.mark.thorough
@pytest.mark.parametrize("run", [on_openvino, on_torch])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.04)])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_backend_gives_the_embedding_of_eager_pytorch(
    family: str, run: Callable[..., Backend], precision: str, tolerance: float
) -> None:
    size, classes = SIZES[family], KEEP[family]["num_classes"]
    preprocess = PreprocessSpec(size)
    whole = baseline(add_embedding(build(family), family), preprocess)
    simple = FAMILIES[family].simplify(add_embedding(build(family), family), preprocess)
    pixels = noise(3, size)
    with torch.inference_mode():
        expected = whole(torch.from_numpy(pixels)).numpy()[:, classes:]
    probabilities, embeddings = reference(whole, size, classes)
    backend = run(simple, precision, size)
    assert disagreement(backend, probabilities, size, embeddings) is None
    found = backend.logits(pixels)[:, classes:]
    assert found.dtype == np.float32
    lengths = np.linalg.norm(expected, axis=1)
    assert (np.linalg.norm(found - expected, axis=1) < tolerance * lengths).all()


def test_backend_with_other_embeddings_is_refused() -> None:
    whole = baseline(add_embedding(build("published"), "published"), PreprocessSpec(32))
    probabilities, embeddings = reference(whole, 32, 5)
    assert embeddings is not None
    backend = on_torch(whole, "float32", 32)
    assert disagreement(backend, probabilities, 32, embeddings) is None
    told = disagreement(backend, probabilities, 32, embeddings * np.float32(1.01))
    assert told == "an embedding is off by 0.0099 of its length, more than 0.001"
    nothing = embeddings * np.float32("nan")
    assert "an embedding is off by nan" in str(disagreement(backend, probabilities, 32, nothing))


@pytest.mark.parametrize("backend", [pytest.param("openvino", marks=pytest.mark.thorough), "torch"])
def test_backbone_without_a_head_gives_embeddings_only(save: Save, backend: str) -> None:
    state = build("published").state_dict()
    whole = save(state)
    options = BackendOptions(backend=backend, precision="float32", streams=1)
    with_head = load_classifier(whole, Overrides(image_size=32), options, embeds=True)
    with_head.open()
    (both,) = with_head.predict([noise(1, 32)[0]], 2)

    # DINO's file: the backbone of the teacher, and its projection
    backbone = {f"backbone.{key}": t for key, t in state.items() if not key.startswith("head.")}
    projection = {"head.mlp.0.weight": torch.ones(1), "head.last_layer.weight_g": torch.ones(1)}
    dino = save({"teacher": backbone | projection})
    with pytest.raises(CheckpointError, match=r"'head\.weight' is missing; .*score --embeddings"):
        read_checkpoint(dino, Overrides(image_size=32))
    headless = load_classifier(dino, Overrides(image_size=32), options, embeds=True)
    headless.open()
    (alone,) = headless.predict([noise(1, 32)[0]], 2)
    assert alone.predictions == []
    assert len(both.predictions) == 2
    assert both.embedding is not None
    assert alone.embedding is not None
    assert both.embedding.shape == (TINY["dim"],)
    np.testing.assert_allclose(alone.embedding, both.embedding, rtol=1e-5, atol=1e-5)


def test_embeddings_do_not_change_the_predictions(save: Save) -> None:
    path = save(build("published").state_dict())
    options = BackendOptions(backend="torch", precision="float32", streams=1)
    answers = []
    for embeds in (False, True):
        classifier = load_classifier(path, Overrides(image_size=32), options, embeds=embeds)
        classifier.open()
        answers += classifier.predict([noise(1, 32)[0]], 5)
    plain, embedded = answers
    assert plain.predictions == embedded.predictions
    assert plain.embedding is None
    np.testing.assert_array_equal(plain.logits, embedded.logits)
