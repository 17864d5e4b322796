"""Bounds by images and by bytes, and the advice to those refused."""

import pytest

from app.admission import Admission
from app.errors import Overloaded


def test_images_are_bounded_and_places_come_back() -> None:
    admission = Admission(max_images=2, max_bytes=100)
    with admission.admit(1), admission.admit(1):
        with pytest.raises(Overloaded, match="2 images are being served"), admission.admit(1):
            pass
        assert admission.images == 2
    assert (admission.images, admission.bytes) == (0, 0)
    with admission.admit(1):
        assert admission.images == 1


def test_bytes_are_bounded_too() -> None:
    admission = Admission(max_images=10, max_bytes=100)
    with admission.admit(60):
        with pytest.raises(Overloaded, match="60 bytes of images"), admission.admit(41):
            pass
        with admission.admit(40):
            assert admission.bytes == 100


def test_a_failed_request_gives_its_place_back() -> None:
    admission = Admission(max_images=1, max_bytes=100)
    with pytest.raises(ValueError, match="whatever"), admission.admit(5):
        raise ValueError("whatever")
    assert (admission.images, admission.bytes) == (0, 0)


def test_retry_after_is_the_queue_over_the_measured_throughput() -> None:
    admission = Admission(max_images=100, max_bytes=10**6)
    assert admission.retry_after() == 1
    admission.observe_batch(size=4, seconds=2.0, streams=2)  # 4 images a second
    with admission.admit(1):
        assert admission.retry_after() == 1
    for _ in range(30):
        admission.images += 1
    assert admission.retry_after() == 8  # 30 / 4, whole seconds
    admission.images = 10_000
    assert admission.retry_after() == 60


def test_throughput_follows_what_is_measured() -> None:
    admission = Admission(max_images=100, max_bytes=10**6)
    for _ in range(100):
        admission.observe_batch(size=1, seconds=1.0, streams=1)
    for _ in range(100):
        admission.observe_batch(size=10, seconds=1.0, streams=1)
    admission.images = 49
    assert admission.retry_after() == 5
