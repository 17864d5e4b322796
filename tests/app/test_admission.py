"""Bounds by images, bytes and deadlines, and the advice to those refused."""

import math

import pytest

from app.admission import Admission
from app.errors import DeadlineExceeded, InvalidImage, Overloaded


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def busy(
    clock: Clock,
    *,
    images: int,
    rate: float,
    batches: int = 20,
    size: int = 4,
    at_once: int = 1,
) -> Admission:
    """An admission with so many images, that has run batches at so many images a second."""
    admission = Admission(max_images=1000, max_bytes=100, at_once=at_once, clock=clock)
    for _ in range(batches):
        end(admission, size)
        clock.now += size / rate
    admission.images = images
    return admission


def end(admission: Admission, size: int, *, left: int = 1, served: bool = True) -> None:
    """Let a batch end, after which so many images are left."""
    admission.images = left + size
    admission.leave(size, served=served)


def test_images_are_bounded_and_places_come_back() -> None:
    admission = Admission(max_images=2, max_bytes=100)
    with admission.admit(), admission.admit():
        with pytest.raises(Overloaded, match="2 images are being served"), admission.admit():
            pass
        assert admission.images == 2
    assert admission.images == 0
    with admission.admit():
        assert admission.images == 1


def test_bytes_are_bounded_as_they_arrive() -> None:
    admission = Admission(max_images=10, max_bytes=100)
    with admission.upload() as one, admission.upload() as other:
        one(60)
        other(30)
        with pytest.raises(Overloaded, match="90 bytes of images are held"):
            one(11)
        other(10)
        assert admission.bytes == 100
        with pytest.raises(Overloaded, match="100 bytes"):
            admission.check()
    assert admission.bytes == 0


def test_a_slow_upload_takes_no_place_among_the_images() -> None:
    admission = Admission(max_images=1, max_bytes=100)
    with admission.upload() as hold:
        hold(1)
        with admission.admit():
            assert admission.images == 1


def test_a_failed_request_gives_everything_back() -> None:
    admission = Admission(max_images=1, max_bytes=100)

    def fail() -> None:
        with admission.upload() as hold, admission.admit():
            hold(5)
            raise ValueError("whatever")

    with pytest.raises(ValueError, match="whatever"):
        fail()
    assert (admission.images, admission.bytes) == (0, 0)


def test_retry_after_is_the_queue_over_the_measured_throughput(clock: Clock) -> None:
    assert Admission(max_images=100, max_bytes=10**6).retry_after() == 1
    assert busy(clock, images=1, rate=4).retry_after() == 1
    assert busy(clock, images=30, rate=4).retry_after() == 8  # 7.5, whole seconds
    assert busy(clock, images=1000, rate=4).retry_after() == 60


def test_throughput_counts_all_streams_and_follows_what_is_measured(clock: Clock) -> None:
    admission = Admission(max_images=1000, max_bytes=100, clock=clock)
    for _ in range(50):  # two batches end together, every second
        end(admission, 5, left=100)
        end(admission, 5, left=100)
        clock.now += 1
    assert admission.expected_wait() == pytest.approx(10, rel=0.1)
    for _ in range(50):
        end(admission, 50, left=100)
        clock.now += 1
    assert admission.expected_wait() == pytest.approx(2, rel=0.1)


def test_what_ends_without_an_answer_is_no_throughput(clock: Clock) -> None:
    admission = Admission(max_images=1000, max_bytes=100, clock=clock)
    for _ in range(50):
        end(admission, 5, left=100)
        end(admission, 5, left=100, served=False)
        clock.now += 1
    assert admission.expected_wait() == pytest.approx(20, rel=0.1)


def test_images_that_are_no_good_are_work_that_was_done(clock: Clock) -> None:
    admission = Admission(max_images=1000, max_bytes=100, clock=clock)

    def fail(error: Exception) -> None:
        with admission.admit():
            clock.now += 0.05
            raise error

    with admission.admit():
        for error in (InvalidImage("no"), DeadlineExceeded("late")) * 50:
            with pytest.raises(type(error)):
                fail(error)
    admission.images = 10
    assert admission.expected_wait() == pytest.approx(1, rel=0.1)


def test_an_idle_service_takes_a_request_however_slow_it_was(clock: Clock) -> None:
    admission = busy(clock, images=1, rate=0.01)
    with pytest.raises(Overloaded, match=r"about 200\.0 s"):
        admission.check(clock.now + 10)
    admission.images = 0
    admission.check(clock.now + 10)


def test_time_without_work_is_no_slowness(clock: Clock) -> None:
    admission = busy(clock, images=100, rate=50)
    end(admission, 4, left=0)
    clock.now += 3600
    end(admission, 4, left=100)
    assert admission.expected_wait() == pytest.approx(2, rel=0.2)


def test_a_request_that_would_miss_its_deadline_is_refused_at_the_door(clock: Clock) -> None:
    admission = busy(clock, images=99, rate=50)
    admission.check(clock.now + 2.1)
    with pytest.raises(Overloaded, match=r"about 2\.0 s, and 1\.9 s are left") as caught:
        admission.check(clock.now + 1.9)
    assert caught.value.retry_after == 2
    admission.check(math.inf)


def test_nobody_is_refused_for_a_throughput_that_is_not_known(clock: Clock) -> None:
    admission = Admission(max_images=10, max_bytes=100, clock=clock)
    admission.images = 9
    admission.check(clock.now + 0.001)


def test_a_worker_that_is_free_takes_a_request_however_slow_the_others_are(clock: Clock) -> None:
    admission = busy(clock, images=1, rate=0.01, at_once=2)
    admission.check(clock.now + 10)
    admission.images = 2
    with pytest.raises(Overloaded, match=r"about 300\.0 s"):
        admission.check(clock.now + 10)
