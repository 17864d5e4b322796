"""A small checkpoint that can be quantised within seconds, and images for it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.checkpoint import write_checkpoint
from model.evaluation.dataset import load_dataset
from model.families.simplify import baseline
from model.families.xcit import XCiT
from model.spec import ModelSpec, PreprocessSpec

from .conftest import HYPERPARAMETERS
from .published import realistic_weights

LABELS = ("ant", "bee", "çöp")
SPEC = ModelSpec("small", "7", "vit_pytorch", HYPERPARAMETERS, PreprocessSpec(16), LABELS)


def write_images(directory: Path, count: int) -> Path:
    """Images of several hues and textures, in folders named after classes."""
    chance = np.random.default_rng(0)
    for number in range(count):
        folder = directory / LABELS[number % len(LABELS)]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = chance.integers(0, 256, 3) + chance.normal(0, chance.uniform(5, 90), (16, 16, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return directory


def write_original(path: Path, images: Path) -> Path:
    """A checkpoint with which each class is the best one of some images."""
    network = XCiT(**HYPERPARAMETERS).eval()
    state = realistic_weights(network.state_dict())
    network.load_state_dict(state)
    pixels = load_dataset(images, "any", SPEC.preprocess, quiet=True).pixels
    with torch.inference_mode():
        state["mlp_head.1.bias"] -= baseline(network, SPEC.preprocess)(pixels).mean(0)
    write_checkpoint(path, SPEC, state, extras={"xcit_other": "kept"})
    return path
