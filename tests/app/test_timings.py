"""The timings of a request with one image or several."""

import pytest

from app.serving.timings import Batch, Timings


def test_intervals_of_a_phase_add_up() -> None:
    timings = Timings()
    timings.add("queue", 1.0, 1.5)
    timings.add("inference", 2.0, 4.0)
    timings.add("queue", 1.75, 2.0)
    assert timings.phases == {"queue": 0.75, "inference": 2.0}
    assert timings.intervals == [
        *(("queue", 1.0, 1.5), ("inference", 2.0, 4.0), ("queue", 1.75, 2.0))
    ]


def test_failed_phase_is_measured() -> None:
    timings = Timings()
    with pytest.raises(KeyError), timings.phase("read"):
        raise KeyError
    ((name, begun, ended),) = timings.intervals
    assert (name, ended - begun) == ("read", timings.phases["read"])


def test_batch_request_takes_each_phase_of_its_slowest_image() -> None:
    early, late = Batch(1, 0, 2, 3.0, 1.0), Batch(2, 0, 3, 4.0, 2.0)
    one, two = Timings(), Timings()
    one.add("preprocess", 1.0, 2.5)
    one.add("inference", 3.0, 4.0)
    two.add("preprocess", 1.0, 1.5)
    two.add("inference", 4.0, 6.0)
    one.batches, two.batches = [early], [late]
    timings = Timings()
    timings.add("read", 0.0, 1.0)
    timings.take_longest([one, two, two])
    assert timings.phases == {"read": 1.0, "preprocess": 1.5, "inference": 2.0}
    assert timings.intervals == [
        *(("read", 0.0, 1.0), ("preprocess", 1.0, 2.5), ("inference", 4.0, 6.0))
    ]
    assert timings.batches == [early, late]
    assert timings.batch_size == 3


def test_batch_size_is_none_without_a_batch() -> None:
    assert Timings().batch_size is None
