"""Attention maps: their values and drawing."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from model.errors import InvalidImage, ModelError
from model.families.simplify import Normalise
from model.families.xcit import XCiT
from model.families.xcit_published import PublishedXCiT
from model.images.decode import Decoded, decode
from model.images.preprocess import preprocess
from model.inference.saliency import Explainer, overlay, palette
from model.inference.views import SIDE
from model.spec import ModelSpec, PreprocessSpec

from .published import realistic_weights
from .test_xcit_published import TINY


def published() -> tuple[ModelSpec, nn.Module]:
    network = PublishedXCiT(**TINY).eval()
    network.load_state_dict(realistic_weights(network.state_dict()))
    labels = tuple(map(str, range(TINY["num_classes"])))
    return ModelSpec("tiny", "1", "published", TINY, PreprocessSpec(64), labels), network


def vit(spec: ModelSpec, network: XCiT) -> tuple[ModelSpec, nn.Module]:
    network.load_state_dict(realistic_weights(network.state_dict()))
    return spec, network.eval()


def noise(size: int) -> Any:
    return np.random.default_rng(3).integers(0, 256, (size, size, 3), np.uint8)


@pytest.mark.parametrize("family", ["vit_pytorch", "published"])
def test_attention_equals_the_weights_of_the_last_class_attention(
    spec: ModelSpec, network: XCiT, family: str
) -> None:
    spec, whole = vit(spec, network) if family == "vit_pytorch" else published()
    size = spec.preprocess.image_size
    found = Explainer(lambda: whole, spec).attention(noise(size))
    side = size // spec.hyperparameters["patch_size"]
    assert found.shape == (spec.hyperparameters["heads"], side, side)
    assert found.sum((1, 2)) == pytest.approx(1, rel=1e-5)
    assert found.std() > 1e-4, "it is the same everywhere"

    # The output of the layer, computed from these weights and its values.
    seen: dict[str, Tensor] = {}
    *_, last = (m for m in whole.modules() if type(m).__name__ == "ClassAttention")

    def watch(module: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        weights = module.weights(*inputs)
        _, _, v = module._project(*inputs)
        out = rearrange(weights @ v, "b heads 1 c -> b 1 (heads c)")
        project = module.to_out if family == "vit_pytorch" else module.proj
        seen.update(weights=weights, expected=project(out), output=output)

    last.register_forward_hook(watch)
    with torch.inference_mode():
        whole(Normalise(spec.preprocess)(torch.from_numpy(noise(size))[None]))
    assert seen["output"] == pytest.approx(seen["expected"], rel=1e-4, abs=1e-6)
    patches = seen["weights"][0, :, 0, 1:]
    shares = patches / patches.sum(-1, keepdim=True)
    assert found.reshape(len(found), -1) == pytest.approx(shares.numpy(), rel=1e-4)


def test_colours_follow_attention() -> None:
    attention = np.zeros((2, 4), np.float32)
    attention[0, 3] = 0.5
    image = np.asarray(overlay(np.full((100, 200, 3), 60, np.uint8), attention)).astype(int)
    bright = image.sum(-1)
    assert np.unravel_index(bright.argmax(), bright.shape) >= (0, 150)
    assert bright[:40, 160:].mean() > 2 * bright[60:, :140].mean()
    assert 0 < bright[60:, :140].mean() < 180, "the picture is not to be seen any more"


def test_palette_brightness_increases() -> None:
    luminance = palette() @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(luminance) > 0).all()


def test_picture_shows_the_crop_and_differs_by_head(spec: ModelSpec, network: XCiT) -> None:
    spec, whole = vit(spec, network)
    explainer = Explainer(lambda: whole, spec)
    buffer = io.BytesIO()
    Image.fromarray(noise(40)[:30]).save(buffer, "PNG")
    data = buffer.getvalue()
    pictures = [explainer.picture(data, head) for head in (None, *range(explainer.heads))]
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as image:
            assert (image.format, image.size, image.mode) == ("PNG", (SIDE, SIDE), "RGB")
    assert len(set(pictures)) == len(pictures)
    assert explainer.picture(data, 0) == pictures[1]
    with pytest.raises(ModelError, match=f"head is {explainer.heads}; it must be from 0 to"):
        explainer.picture(data, explainer.heads)
    with pytest.raises(InvalidImage):
        explainer.picture(data[:60])


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_explanation_needs_one_decode(
    spec: ModelSpec, network: XCiT, image_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, whole = vit(spec, network)
    buffer = io.BytesIO()
    Image.fromarray(noise(900)).save(buffer, image_format)
    decoded: list[object] = []

    def count(*arguments: Any) -> Decoded:
        decoded.append(arguments)
        return decode(*arguments)

    monkeypatch.setattr("model.images.preprocess.decode", count)
    views = Explainer(lambda: whole, spec).prepare(buffer.getvalue())
    assert len(decoded) == 1
    assert views.shown.shape == (SIDE, SIDE, 3)
    seen = preprocess(buffer.getvalue(), spec.preprocess).astype(int)
    assert np.abs(views.seen - seen).max() <= (0 if image_format == "PNG" else 8)
