"""Scores at a temperature: the classes keep their order, and all ways give the same scores."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.errors import CheckpointError
from model.inference.exchange import read_classification, spec_from_json, spec_to_json
from model.inference.prediction import label
from model.scores import ONE, Logits, Temperatures, best_classes, show_temperatures, softmax
from model.spec import MAX_TEMPERATURE, MIN_TEMPERATURE, ModelSpec, PreprocessSpec

CLASSES = 7
VALUES = st.floats(MIN_TEMPERATURE, MAX_TEMPERATURE)
GAPS = st.lists(st.floats(1e-3, 30), max_size=4, unique=True).map(sorted)
STEPS = GAPS.flatmap(lambda gaps: st.tuples(*(st.tuples(st.just(gap), VALUES) for gap in gaps)))
TEMPERATURES = st.tuples(VALUES, STEPS)
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


@settings(max_examples=60)
@given(LOGITS, TEMPERATURES, st.integers(1, CLASSES))
def test_no_temperature_changes_the_order_of_the_classes(
    logits: Logits, temperatures: Temperatures, top_k: int
) -> None:
    _, plain = best_classes(logits, top_k)
    scores, ids = best_classes(logits, top_k, temperatures)
    assert (ids == plain).all()
    assert (np.diff(scores) <= 0).all()
    assert softmax(logits, temperatures).sum(-1) == pytest.approx(np.ones(len(logits)), abs=1e-5)


@settings(max_examples=60)
@given(LOGITS, TEMPERATURES)
def test_scores_are_the_softmax_of_the_logits_over_their_temperatures(
    logits: Logits, temperatures: Temperatures
) -> None:
    first, later = temperatures
    gaps = logits.max(-1, keepdims=True).astype(float) - logits.astype(float)
    edges = [0.0, *(gap for gap, _ in later), np.inf]
    parts = [np.clip(gaps - low, 0, high - low) for low, high in pairwise(edges)]
    divisors = (first, *(value for _, value in later))
    powers = np.exp(-sum(part / value for part, value in zip(parts, divisors, strict=True)))
    expected = powers / powers.sum(-1, keepdims=True)
    found = softmax(logits, temperatures)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, abs=1e-5)


@settings(max_examples=60)
@given(LOGITS, TEMPERATURES, st.integers(1, CLASSES))
def test_rows_outputs_and_workers_give_the_same_scores(
    logits: Logits, temperatures: Temperatures, top_k: int
) -> None:
    first, later = temperatures
    known = replace(SPEC, temperature=first, gap_temperatures=later)
    spec = spec_from_json(json.loads(json.dumps(spec_to_json(known))))
    assert spec == known
    for found, row in zip(label(logits, top_k, spec), logits, strict=True):
        assert (found.logits == row).all(), "logits stay as the network gave them"
        in_worker = read_classification(memoryview(row.tobytes()), top_k, spec)
        assert in_worker.predictions == found.predictions
        for best in found.predictions:
            assert best.score == float(f"{found.probabilities[best.class_id]:.6g}")


def test_a_high_temperature_lowers_the_best_score() -> None:
    logits = np.array([[2, 1, 0]], np.float32)
    (low,), (plain,), (high,) = (best_classes(logits, 1, (t, ()))[0] for t in (0.5, 1.0, 2.0))
    assert low > plain > high > 1 / 3


@pytest.mark.parametrize(
    "steps",
    [
        *(((0.0, 1.0),), ((2.0, 1.0), (2.0, 1.0)), ((-1.0, 1.0),), ((np.inf, 1.0),), ((1.0,),)),
        *((3,), ("ab",), tuple((1.0 + i, 1.0) for i in range(17)), (("1", 1.0),)),
    ],
)
def test_gaps_that_do_not_rise_are_refused(steps: Any) -> None:
    with pytest.raises(CheckpointError, match=r"gap_temperatures is .*; expected at most 16 pairs"):
        replace(SPEC, gap_temperatures=steps)


def test_each_temperature_is_checked() -> None:
    with pytest.raises(
        CheckpointError, match=r"temperature is 0\.01; it must be a number from 0\.05"
    ):
        replace(SPEC, gap_temperatures=((1.0, 0.01),))


def test_temperatures_are_shown_in_one_line() -> None:
    assert show_temperatures(ONE) == "1"
    shown = show_temperatures((1.6, ((2.5, 0.6), (4.0, 0.25))))
    assert shown == "1.6, then 0.6 beyond a gap of 2.5, 0.25 beyond 4"
