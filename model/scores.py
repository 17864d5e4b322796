"""Probabilities and the best classes, from logits."""

from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Scores = NDArray[np.float32]
ClassIds = NDArray[np.int64]
Steps = tuple[tuple[float, float], ...]
Temperatures = tuple[float, Steps]  # the first, and pairs of a gap and the temperature beyond it
ONE: Temperatures = (1.0, ())
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


def steps_from_json(steps: Any) -> Any:
    """The pairs of ``gap_temperatures``, which are lists in JSON; not checked."""
    return tuple(tuple(step) if isinstance(step, list) else step for step in steps)


def show_temperatures(temperatures: Temperatures) -> str:
    """Temperatures for people: ``0.8``, or ``1.6, then 0.6 beyond a gap of 2.7, 0.2 beyond 4``."""
    first, later = temperatures
    shown = f"{first:g}"
    for gap, temperature in later[:1]:
        shown += f", then {temperature:g} beyond a gap of {gap:g}"
    for gap, temperature in later[1:]:
        shown += f", {temperature:g} beyond {gap:g}"
    return shown
