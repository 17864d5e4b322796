"""The application in Ray's local testing mode, on a fake classifier."""

import time
from typing import Any

import pytest

from app.config.settings import Settings
from app.serving.errors import InvalidImage, NotReady
from tests.app.conftest import FakeClassifier

from .library import Arguments, build_with, serve


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


PLAYED: list[FakeClassifier] = []


def load_last(settings: Settings, cores: int) -> FakeClassifier:
    """The classifier of the current test: Ray pickles the arguments of a replica."""
    return PLAYED[-1]


@pytest.fixture
def handle(classifier: FakeClassifier) -> Any:
    """A handle in local testing mode, in which Ray does not wait for `Replica.reconfigure`."""
    PLAYED.append(classifier)
    application = build_with(Arguments(), load_last)
    handle = serve.run(application, name="local", _local_testing_mode=True)
    deadline = time.monotonic() + 10
    while True:
        try:
            handle.predict.remote(b"0").result()
            break
        except NotReady:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    classifier.batches.clear()
    return handle


def test_python_callers_use_the_handle(handle: Any, classifier: FakeClassifier) -> None:
    assert handle.predict.remote(b"3", top_k=1).result() == {
        "model": {"name": "fake", "version": "3"},
        "predictions": [{"class_id": 3, "label": "class_3", "score": 0.9}],
    }
    with pytest.raises(InvalidImage):
        handle.predict.remote(b"bad").result()


def test_calls_of_the_handle_form_batches(handle: Any, classifier: FakeClassifier) -> None:
    classifier.gate.clear()
    first = handle.predict.remote(b"1")
    assert classifier.started.acquire(timeout=10)
    assert classifier.started.acquire(timeout=10)
    others = [handle.predict.remote(b"%d" % number) for number in range(2, 6)]
    time.sleep(0.2)  # for the others to be decoded and queued
    classifier.gate.set()
    assert [call.result()["predictions"][0]["class_id"] for call in [first, *others]] == [
        *range(1, 6)
    ]
    assert [len(batch) for batch in classifier.batches] == [1, 4]
