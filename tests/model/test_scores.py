"""Scores at a temperature: the classes keep their order, and all ways give the same scores."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.inference.exchange import read_classification, spec_from_json, spec_to_json
from model.inference.prediction import label
from model.scores import Logits, best_classes, softmax
from model.spec import MAX_TEMPERATURE, MIN_TEMPERATURE, ModelSpec, PreprocessSpec

CLASSES = 7
TEMPERATURES = st.floats(MIN_TEMPERATURE, MAX_TEMPERATURE)
# few different values make ties, and neighbours of 1 that a division may round to one number
NUMBERS = st.one_of(
    st.sampled_from((-1.0, 0.0)),
    st.sampled_from([float(np.nextafter(np.float32(1), np.float32(end))) for end in (0, 1, 2)]),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.floats(-20, 20, width=32),
)
LOGITS = arrays(np.float32, (3, CLASSES), elements=NUMBERS)
SPEC = ModelSpec(
    name="seven",
    version="1",
    family="vit_pytorch",
    hyperparameters={},
    preprocess=PreprocessSpec(16),
    labels=tuple("abcdefg"),
)


@given(LOGITS, TEMPERATURES, st.integers(1, CLASSES))
def test_no_temperature_changes_the_order_of_the_classes(
    logits: Logits, temperature: float, top_k: int
) -> None:
    _, plain = best_classes(logits, top_k)
    scores, ids = best_classes(logits, top_k, temperature)
    assert (ids == plain).all()
    assert (np.diff(scores) <= 0).all()
    assert softmax(logits, temperature).sum(-1) == pytest.approx(np.ones(len(logits)), abs=1e-5)


@given(LOGITS, TEMPERATURES)
def test_scores_are_the_softmax_of_the_logits_over_the_temperature(
    logits: Logits, temperature: float
) -> None:
    exact = logits.astype(np.float64)
    powers = np.exp((exact - exact.max(-1, keepdims=True)) / temperature)
    expected = powers / powers.sum(-1, keepdims=True)
    assert softmax(logits, temperature) == pytest.approx(expected, abs=1e-5)


@given(LOGITS, TEMPERATURES, st.integers(1, CLASSES))
def test_rows_outputs_and_workers_give_the_same_scores(
    logits: Logits, temperature: float, top_k: int
) -> None:
    spec = spec_from_json(spec_to_json(replace(SPEC, temperature=temperature)))
    for found, row in zip(label(logits, top_k, spec), logits, strict=True):
        assert (found.logits == row).all(), "logits stay as the network gave them"
        in_worker = read_classification(memoryview(row.tobytes()), top_k, spec)
        assert in_worker.predictions == found.predictions
        for best in found.predictions:
            assert best.score == float(f"{found.probabilities[best.class_id]:.6g}")


def test_a_high_temperature_lowers_the_best_score() -> None:
    logits = np.array([[2, 1, 0]], np.float32)
    (low,), (plain,), (high,) = (best_classes(logits, 1, value)[0] for value in (0.5, 1, 2))
    assert low > plain > high > 1 / 3
