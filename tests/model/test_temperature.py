"""Fitting a temperature to logits and true classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.evaluation import temperature
from model.evaluation.temperature import fit_temperature
from model.scores import Logits, softmax
from model.spec import MAX_TEMPERATURE, MIN_TEMPERATURE

Classes = NDArray[np.int64]


def sample(true_temperature: float, images: int, seed: int = 0) -> tuple[Logits, Classes]:
    """Logits, and classes drawn with the probabilities at a temperature."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(scale=3, size=(images, 5)).astype(np.float32)
    drawn = chance.gumbel(size=logits.shape)
    return logits, (logits / true_temperature + drawn).argmax(1)


def loss(logits: Logits, classes: Classes, at: float) -> float:
    scores = softmax(logits.astype(np.float64), at)
    return float(-np.log(np.take_along_axis(scores, classes[:, None], 1)).mean())


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_of_drawn_classes_is_found(true: float) -> None:
    assert fit_temperature(*sample(true, 20_000)) == pytest.approx(true, rel=0.03)


@given(st.integers(0, 100), st.floats(0.3, 3))
def test_no_other_temperature_has_a_lower_loss(seed: int, true: float) -> None:
    logits, classes = sample(true, 200, seed)
    found = fit_temperature(logits, classes)
    least = loss(logits, classes, found)
    for factor in (0.8, 0.99, 1.01, 1.25):
        assert loss(logits, classes, found * factor) > least


@settings(max_examples=20)
@given(st.floats(0.2, 5))
def test_logits_times_a_factor_have_a_temperature_times_it(factor: float) -> None:
    logits, classes = sample(1, 500)
    scaled = fit_temperature((logits * factor).astype(np.float32), classes)
    assert scaled == pytest.approx(factor * fit_temperature(logits, classes), rel=1e-3)


def test_result_does_not_depend_on_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, classes = sample(2, 300)
    whole = fit_temperature(logits, classes)
    monkeypatch.setattr(temperature, "CHUNK", 70)
    assert fit_temperature(logits, classes) == whole


def test_search_ends_at_its_bounds() -> None:
    logits, _ = sample(1, 100)
    assert fit_temperature(logits, logits.argmax(1)) == MIN_TEMPERATURE
    assert fit_temperature(logits, logits.argmin(1)) == MAX_TEMPERATURE
    assert fit_temperature(np.zeros((100, 5), np.float32), logits.argmax(1)) > 0


def test_extreme_logits_have_a_finite_result() -> None:
    logits, classes = sample(1, 100)
    assert fit_temperature(logits * np.float32(1e30), classes) == MAX_TEMPERATURE
