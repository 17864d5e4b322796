"""Checking that a backend gives the same answers as 32-bit PyTorch."""

import numpy as np
import torch
from torch import nn

from model.backends.base import Backend
from model.images.preprocess import Pixels
from model.scores import Logits, Scores, softmax

# Maximum distance of a probability from that of 32-bit PyTorch.
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 4e-2}


def self_test_images(image_size: int) -> Pixels:
    """Images ``(4, image_size, image_size, 3)`` for comparing backends."""
    steps = np.linspace(0, 255, image_size * image_size * 3)
    slope = steps.reshape(image_size, image_size, 3)
    noise = np.random.default_rng(0).integers(0, 256, slope.shape)
    waves = 127.5 + 127.5 * np.sin(steps / 7).reshape(slope.shape)
    return np.stack((slope, slope[::-1, ::-1], noise, waves)).astype(np.uint8)


def probabilities(network: nn.Module, image_size: int) -> Scores:
    """Probabilities ``(4, classes)`` of `self_test_images`, computed by eager PyTorch."""
    return softmax(_outputs(network, image_size))


def reference(network: nn.Module, image_size: int, classes: int) -> tuple[Scores, Logits | None]:
    """Probabilities ``(4, classes)``, and the embeddings ``(4, dim)`` if they follow the logits.

    They are computed by eager PyTorch, for `self_test_images`.
    """
    found = _outputs(network, image_size)
    logits, embeddings = found[:, :classes], found[:, classes:]
    return softmax(logits) if classes else logits, embeddings if embeddings.size else None


def _outputs(network: nn.Module, image_size: int) -> Logits:
    with torch.inference_mode():
        found: Logits = network(torch.from_numpy(self_test_images(image_size))).numpy()
    return found


def disagreement(
    backend: Backend,
    expected: Scores,
    image_size: int,
    embeddings: Logits | None = None,
    tolerances: tuple[float, float] | None = None,
) -> str | None:
    """How a backend's answers differ, run in the calling thread; ``None`` if they agree.

    Every probability must be within a tolerance, and the best class must be the same unless the two
    best are closer to each other than that. Embeddings must be within a tolerance of their length.

    Args:
        expected: the `probabilities` of the same network, ``(4, classes)``.
        embeddings: those of the same network, ``(4, dim)``, if its outputs end with them.
        tolerances: of probabilities and of embeddings; by default those of the backend's precision
            in `TOLERANCE`.
    """
    backend.open()
    found = backend.logits(self_test_images(image_size))
    classes = expected.shape[1]
    tolerance, relative = tolerances or 2 * (TOLERANCE[backend.precision],)
    if classes and (reason := _class_difference(softmax(found[:, :classes]), expected, tolerance)):
        return reason
    if embeddings is None:
        return None
    distance = embedding_distance(found[:, classes:], embeddings)
    if not distance <= relative:  # also true for NaN
        return f"an embedding is off by {distance:.2g} of its length, more than {relative:g}"
    return None


def embedding_distance(found: Logits, expected: Logits) -> float:
    """The greatest distance of an embedding, relative to the length of the expected one."""
    errors = np.linalg.norm(found - expected, axis=1)
    return float((errors / np.linalg.norm(expected, axis=1)).max())


def _class_difference(found: Scores, expected: Scores, tolerance: float) -> str | None:
    distance = np.abs(found - expected).max()
    if not distance <= tolerance:  # also true for NaN
        return f"a probability is off by {distance:.2g}, more than {tolerance:g}"
    best = found.argmax(1, keepdims=True)
    lost = expected.max(1) - np.take_along_axis(expected, best, 1)[:, 0]
    if lost.max() > tolerance:
        return "its best class differs"
    return None
