"""Probabilities and the best classes, from logits."""

from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from model.spec import ONE, Temperatures

Logits = NDArray[np.float32]
Scores = NDArray[np.float32]
ClassIds = NDArray[np.int64]
FAR = 1e30  # a gap beyond which all scores are 0


def scaled(logits: Logits, temperatures: Temperatures = ONE) -> Logits:
    """Logits ``(..., c)``, less the best one over the last axis, over their temperature.

    The result has the order of the logits, but different logits may round to the same number.
    """
    # Ufuncs: for one image the methods `max` and `sum` take twice the time.
    best = np.maximum.reduce(logits, -1, keepdims=True)
    first, later = temperatures
    if not later:
        below: Logits = logits - best
        return below / first
    # In 64 bits, so that rounding at a gap reverses no two logits of 32 bits.
    return (-np.interp(best - logits, *_curve(temperatures))).astype(logits.dtype)


@lru_cache
def _curve(temperatures: Temperatures) -> tuple[list[float], list[float]]:
    """Gaps, and what they become: each part of a gap is divided by its temperature."""
    first, later = temperatures
    starts, divisors = (0.0, *(gap for gap, _ in later)), (first, *(value for _, value in later))
    ends = [*starts[1:], FAR]
    lengths = [
        (end - start) / divisor for start, end, divisor in zip(starts, ends, divisors, strict=True)
    ]
    return [0.0, *ends], [0.0, *accumulate(lengths)]


def softmax(logits: Logits, temperatures: Temperatures = ONE) -> Scores:
    """Probabilities of logits ``(..., c)`` over the last axis."""
    powers: Scores = np.exp(scaled(logits, temperatures))
    total: Scores = np.add.reduce(powers, -1, keepdims=True)
    return powers / total


def best_classes(
    logits: Logits, top_k: int, temperatures: Temperatures = ONE
) -> tuple[Scores, ClassIds]:
    """The highest ``top_k`` probabilities and their classes, ``(b, top_k)`` each, best first.

    The order is that of the logits, so that no temperature changes it.
    """
    rows = np.arange(len(logits))[:, None]
    ids = (-logits).argpartition(top_k - 1)[:, :top_k]
    order = (-logits[rows, ids]).argsort(kind="stable")
    ids = ids[rows, order]
    return softmax(logits, temperatures)[rows, ids], ids
