"""Fitting temperatures: those at which scores give the true classes the highest likelihood."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.scores import Logits, Temperatures, scaled
from model.spec import MAX_TEMPERATURE, MIN_TEMPERATURE

CHUNK = 2**20  # logits that are computed at once, in 64 bits
HALVINGS = 30  # of the range of logarithms, which is 6: to under 1e-8
# Shares of the images whose second-best class is nearer to the best than a gap at which another
# temperature begins. Networks trained with label smoothing put most images at almost the same gap.
SHARES = (0.1, 0.25, 0.5)
MOST_LOGITS = 2**22  # for the fit of several temperatures; of more, every n-th image is taken
NEWTON_STEPS = 50
# As many images weighs the assumption of one temperature; few images could give extreme ones.
PRIOR = 1
TOLERANCE = 1e-9

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]


def fit_temperature(logits: Logits, classes: Classes) -> float:
    """The temperature of the lowest negative log-likelihood (Guo et al. 2017), with 4 digits.

    The likelihood is convex in the inverse temperature, so the sign of its slope shows on which
    side the minimum is. The result is a bound of the range if the minimum is outside.

    Args:
        logits: ``(images, classes)``.
        classes: the true classes, ``(images,)``.
    """
    low, high = math.log(1 / MAX_TEMPERATURE), math.log(1 / MIN_TEMPERATURE)
    parts = max(1, logits.size // CHUNK)
    chunks = [*zip(np.array_split(logits, parts), np.array_split(classes, parts), strict=True)]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if sum(_slope(*chunk, math.exp(middle)) for chunk in chunks) < 0:
            low = middle
        else:
            high = middle
    return _rounded(math.exp(-(low + high) / 2))


def _slope(logits: Logits, classes: Classes, inverse: float) -> float:
    """The derivative of the negative log-likelihood by the inverse temperature."""
    below = logits.astype(float)
    below -= below.max(1, keepdims=True)
    powers = np.exp(inverse * below)
    expected = (powers * below).sum(1) / powers.sum(1)
    true = np.take_along_axis(below, classes[:, None], 1)[:, 0]
    return float((expected - true).sum())


def fit_temperatures(logits: Logits, classes: Classes, best: float) -> Temperatures:
    """One temperature, or several by distance to the best logit where these fit clearly better.

    One temperature cannot repair scores that are too low for easy images and too high for hard
    ones, as after training with label smoothing. Several are used if the Bayesian information
    criterion, which counts them, prefers them.

    Args:
        logits, classes: as for `fit_temperature`.
        best: its result.
    """
    one: Temperatures = (best, ())
    step = -(-logits.size // MOST_LOGITS)
    logits, classes = logits[::step], classes[::step]
    gaps = _gaps(logits)
    if not gaps:
        return one
    several = _fit_several(logits, classes, gaps, best)
    gain = _loss(logits, classes, one) - _loss(logits, classes, several)
    return several if gain > len(gaps) / 2 * math.log(len(logits)) else one


def _gaps(logits: Logits) -> list[float]:
    """Distances to the best logit at which another temperature begins."""
    if logits.shape[1] < 2:
        return []
    second, best = np.partition(logits, -2, 1)[:, -2:].T
    quantiles = np.quantile((best - second).astype(float), SHARES)
    return sorted({_rounded(gap) for gap in quantiles.tolist()} - {0.0})


def _fit_several(logits: Logits, classes: Classes, gaps: list[float], start: float) -> Temperatures:
    """Minimise the loss, which is convex in the inverse temperatures, within their bounds.

    Projected Newton steps: those at a bound that the gradient pushes outwards stay there.
    """
    below = logits.astype(float)
    below -= below.max(1, keepdims=True)
    edges = [0.0, *gaps, math.inf]
    parts = np.stack([np.clip(below + low, low - high, 0) for low, high in pairwise(edges)])
    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    inverse = np.full(len(parts), 1 / start)
    value, gradient, curvature = _derivatives(parts, classes, inverse, 1 / start)
    for _ in range(NEWTON_STEPS):
        stuck = ((inverse <= low) & (gradient > 0)) | ((inverse >= high) & (gradient < 0))
        free = ~stuck
        if np.abs(gradient[free]).sum() < TOLERANCE:
            break
        matrix = curvature[np.ix_(free, free)] + 1e-12 * np.eye(int(free.sum()))
        move = np.zeros_like(inverse)
        move[free] = -np.linalg.solve(matrix, gradient[free])
        for shrink in range(30):
            candidate = np.clip(inverse + move / 2**shrink, low, high)
            found = _derivatives(parts, classes, candidate, 1 / start)
            if found[0] < value:
                break
        else:
            break
        inverse, (value, gradient, curvature) = candidate, found
    first, *later = (_rounded(value) for value in (1 / inverse).tolist())
    return first, tuple(zip(gaps, later, strict=True))


def _derivatives(
    parts: Floats, classes: Classes, inverse: Floats, one: float
) -> tuple[float, Floats, Floats]:
    """The mean loss, its gradient and its second derivatives by the inverse temperatures.

    Args:
        parts: the part of each logit below the best that has each temperature,
            ``(temperatures, images, classes)``.
        one: the best single inverse temperature; those far from it cost as much as `PRIOR` images.
    """
    scaled_logits = np.tensordot(inverse, parts, 1)
    powers = np.exp(scaled_logits)
    totals = powers.sum(1, keepdims=True)
    scores = powers / totals
    images = np.arange(len(classes))
    loss = (np.log(totals[:, 0]) - scaled_logits[images, classes]).mean()
    expected: Any = np.einsum("kic,ic->ki", parts, scores)
    gradient = (expected - parts[:, images, classes]).mean(1)
    weighted: Any = np.einsum("kic,jic,ic->kj", parts, parts, scores, optimize=True)
    curvature = (weighted - expected @ expected.T) / len(classes)
    share, away = PRIOR / len(classes), inverse / one - 1
    loss += share / 2 * (away**2).sum()
    gradient += share / one * away
    curvature += share / one**2 * np.eye(len(inverse))
    return float(loss), gradient, curvature


def _loss(logits: Logits, classes: Classes, temperatures: Temperatures) -> float:
    """The negative log-likelihood of all images."""
    exponents = scaled(logits.astype(float), temperatures)
    true = np.take_along_axis(exponents, classes[:, None], 1)[:, 0]
    return float((np.log(np.exp(exponents).sum(1)) - true).sum())


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
