"""Fitting a temperature to logits and true classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.evaluation import temperature
from model.evaluation.reliability import reliability
from model.evaluation.temperature import fit_temperature, fit_temperatures
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
    scores = softmax(logits.astype(np.float64), (at, ()))
    return float(-np.log(np.take_along_axis(scores, classes[:, None], 1)).mean())


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_of_drawn_classes_is_found(true: float) -> None:
    assert fit_temperature(*sample(true, 20_000)) == pytest.approx(true, rel=0.03)


@settings(max_examples=30)
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


def smoothed(images: int, seed: int = 0) -> tuple[Logits, Classes]:
    """Logits as of a network trained with label smoothing: no gap is over 2."""
    logits, classes = sample(1, images, seed)
    gaps = logits.max(1, keepdims=True) - logits
    return -(2 * np.tanh(gaps / 2)).astype(np.float32), classes


def test_one_temperature_is_kept_where_several_fit_no_better() -> None:
    for seed in range(5):
        logits, classes = sample(1.5, 2000, seed)
        best = fit_temperature(logits, classes)
        assert fit_temperatures(logits, classes, best) == (best, ())


def test_several_temperatures_repair_scores_that_are_too_low_for_easy_images() -> None:
    logits, classes = smoothed(4000)
    best = fit_temperature(logits, classes)
    first, later = fit_temperatures(logits, classes, best)
    assert first > later[-1][1], "large gaps are made larger"
    others, truth = smoothed(4000, seed=1)
    right = others.argmax(1) == truth
    one, several = (
        reliability(softmax(others, found).max(1).astype(float), right).error
        for found in ((best, ()), (first, later))
    )
    assert several < 0.5 * one


def test_fitted_temperatures_are_the_best_of_their_gaps() -> None:
    logits, classes = smoothed(1000)
    first, later = fit_temperatures(logits, classes, fit_temperature(logits, classes))
    values = [first, *(value for _, value in later)]
    assert len(values) == 4

    def loss_of(values: list[float]) -> float:
        steps = tuple(zip([gap for gap, _ in later], values[1:], strict=True))
        scores = softmax(logits, (values[0], steps))
        return float(-np.log(scores[range(len(classes)), classes]).mean())

    for place in range(len(values)):
        for factor in (0.7, 1.4):
            changed = [v * factor if i == place else v for i, v in enumerate(values)]
            assert loss_of(changed) > loss_of(values)


def test_few_images_get_one_temperature() -> None:
    logits, classes = smoothed(60)
    best = fit_temperature(logits, classes)
    assert fit_temperatures(logits, classes, best) == (best, ())


def test_equal_logits_have_no_gaps() -> None:
    logits = np.zeros((200, 3), np.float32)
    assert fit_temperatures(logits, np.arange(200) % 3, 1.0) == (1.0, ())
    assert fit_temperatures(logits[:, :1], np.zeros(200, np.int64), 1.0) == (1.0, ())


def test_of_many_logits_a_part_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, classes = smoothed(4000)
    monkeypatch.setattr(temperature, "MOST_LOGITS", 5 * 2000)
    best = fit_temperature(logits, classes)
    assert fit_temperatures(logits, classes, best) == fit_temperatures(
        logits[::2], classes[::2], best
    )
