"""Fitting a temperature: the one at which scores give the true classes the highest likelihood."""

import math

import numpy as np
from numpy.typing import NDArray

from model.scores import Logits
from model.spec import MAX_TEMPERATURE, MIN_TEMPERATURE

CHUNK = 2**20  # logits that are computed at once, in 64 bits
STEPS = 30  # halve the range of logarithms, which is 6, to under 1e-8


def fit_temperature(logits: Logits, classes: NDArray[np.int64]) -> float:
    """The temperature of the lowest negative log-likelihood (Guo et al. 2017), with 4 digits.

    In the inverse temperature the likelihood is convex, so that the sign of its slope tells on
    which side the minimum is. The result is a bound of the range if the minimum is outside.

    Args:
        logits: ``(images, classes)``.
        classes: the true classes, ``(images,)``.
    """
    low, high = math.log(1 / MAX_TEMPERATURE), math.log(1 / MIN_TEMPERATURE)
    parts = max(1, logits.size // CHUNK)
    chunks = [*zip(np.array_split(logits, parts), np.array_split(classes, parts), strict=True)]
    for _ in range(STEPS):
        middle = (low + high) / 2
        if sum(_slope(*chunk, math.exp(middle)) for chunk in chunks) < 0:
            low = middle
        else:
            high = middle
    return float(f"{math.exp(-(low + high) / 2):.4g}")


def _slope(logits: Logits, classes: NDArray[np.int64], inverse: float) -> float:
    """The derivative of the negative log-likelihood by the inverse temperature."""
    below = logits.astype(float)
    below -= below.max(1, keepdims=True)
    powers = np.exp(inverse * below)
    expected = (powers * below).sum(1) / powers.sum(1)
    true = np.take_along_axis(below, classes[:, None], 1)[:, 0]
    return float((expected - true).sum())
