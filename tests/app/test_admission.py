"""Admission by images, bytes and deadlines, and Retry-After."""

import math
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.serving.admission import Admission
from app.serving.errors import DeadlineExceeded, InvalidImage, Overloaded, ServiceError
from app.serving.held_bytes import HeldBytes, keep
from app.serving.permits import CountedPermits


class Clock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_images_are_limited_and_slots_are_released() -> None:
    admission = Admission(CountedPermits(2), HeldBytes(100))
    with admission.admit(), admission.admit():
        with pytest.raises(Overloaded, match="2 images are being served"), admission.admit():
            pass
        assert admission.images == 2
    assert admission.images == 0
    with admission.admit():
        assert admission.images == 1


def test_bytes_are_limited_while_they_arrive() -> None:
    admission = Admission(CountedPermits(10), HeldBytes(100))
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


def test_slow_upload_takes_no_slot() -> None:
    admission = Admission(CountedPermits(1), HeldBytes(100))
    with admission.upload() as hold:
        hold(1)
        with admission.admit():
            assert admission.images == 1


def test_failed_request_releases_its_slot_and_bytes() -> None:
    admission = Admission(CountedPermits(1), HeldBytes(100))

    def fail() -> None:
        with admission.upload() as hold, admission.admit():
            hold(5)
            raise ValueError("whatever")

    with pytest.raises(ValueError, match="whatever"):
        fail()
    assert (admission.images, admission.bytes) == (0, 0)


def fill(admission: Admission, images: int) -> ExitStack:
    """Admit images until the result is closed."""
    stack = ExitStack()
    for _ in range(images):
        stack.enter_context(admission.admit())
    return stack


def busy(clock: Clock, *, images: int, rate: float, at_once: int = 1) -> Admission:
    """The admission of a service that has run batches of four at ``rate`` images per second."""
    admission = Admission(CountedPermits(2000), HeldBytes(100), at_once=at_once, clock=clock)
    admission.images = images
    for _ in range(20):
        batch = fill(admission, 4)
        clock.now += 4 / rate
        batch.close()
    return admission


def test_retry_after_is_the_queue_over_the_measured_throughput(clock: Clock) -> None:
    assert Admission(CountedPermits(100), HeldBytes(10**6)).retry_after() == 1
    assert busy(clock, images=1, rate=8).retry_after() == 1
    assert busy(clock, images=30, rate=4).retry_after() == 8  # 7.5, whole seconds
    assert busy(clock, images=1000, rate=4).retry_after() == 60


def test_invalid_images_count_as_served_and_late_images_do_not(clock: Clock) -> None:
    admission = Admission(CountedPermits(1000), HeldBytes(100), clock=clock)
    waiting = fill(admission, 10)
    for error in (InvalidImage("no"), DeadlineExceeded("late")) * 50:
        clock.now += 0.05
        with suppress(ServiceError), admission.admit():
            raise error
    assert admission.expected_wait() == pytest.approx(1, rel=0.1)
    waiting.close()


def test_idle_service_admits_a_request_however_slow_it_was(clock: Clock) -> None:
    admission = busy(clock, images=1, rate=0.01)
    with pytest.raises(
        Overloaded, match=r"estimated wait of 400\.0 s exceeds the remaining 10\.0 s"
    ):
        admission.check(clock.now + 10)
    admission.images = 0
    admission.check(clock.now + 10)


def test_request_that_would_miss_its_deadline_is_refused(clock: Clock) -> None:
    admission = busy(clock, images=99, rate=50)
    admission.check(clock.now + 2.1)
    with pytest.raises(Overloaded, match=r"wait of 2\.0 s exceeds the remaining 1\.9 s") as caught:
        admission.check(clock.now + 1.9)
    assert caught.value.retry_after == 2
    admission.check(math.inf)


def test_no_request_is_refused_while_the_throughput_is_unknown(clock: Clock) -> None:
    admission = Admission(CountedPermits(10), HeldBytes(100), clock=clock)
    with fill(admission, 9):
        admission.check(clock.now + 0.001)


def test_free_worker_takes_a_request_however_slow_the_others_are(clock: Clock) -> None:
    admission = busy(clock, images=1, rate=0.01, at_once=2)
    admission.check(clock.now + 10)
    with admission.admit(), pytest.raises(Overloaded, match="exceeds the remaining 10"):
        admission.check(clock.now + 10)


def test_single_failed_request_does_not_lower_the_throughput(clock: Clock) -> None:
    admission = busy(clock, images=0, rate=100)
    with suppress(ServiceError), admission.admit():
        clock.now += 30
        raise DeadlineExceeded("late")
    assert admission.expected_wait(100) == pytest.approx(1, rel=0.1)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-40, 60)), max_size=40))
def test_bytes_are_counted_while_a_decoder_reads_them(
    steps: list[tuple[int, int]],
) -> None:
    """Requests hold bytes and end, and decoders of their bytes start and end, in any order."""
    admission = Admission(CountedPermits(10), HeldBytes(1000))
    requests: list[tuple[ExitStack, int]] = []  # with the numbers of their bytes
    decoders: list[tuple[Callable[[], None], int]] = []
    for kind, size in steps:
        if kind == 0:  # a request starts, and decodes a part of its bytes
            stack = ExitStack()
            hold = stack.enter_context(admission.upload())
            hold(abs(size))
            decoders.append((keep(abs(size) // 2), abs(size) // 2))
            requests.append((stack, abs(size)))
        elif kind == 1 and requests:  # a request ends
            stack, _ = requests.pop(size % len(requests))
            stack.close()
        elif decoders:
            release, _ = decoders.pop(size % len(decoders))
            release()
        present = sum(size for _, size in requests)
        assert present <= admission.bytes <= present + sum(size for _, size in decoders)
    for stack, _ in reversed(requests):
        stack.close()
    assert admission.bytes == sum(size for _, size in decoders)
    for release, _ in decoders:
        release()
    assert admission.bytes == 0


def test_buffer_shared_by_decoders_is_counted_once() -> None:
    admission = Admission(CountedPermits(10), HeldBytes(100))
    with admission.upload() as hold:
        hold(60)
        releases = [keep(60) for _ in range(3)]
    for release in releases:
        assert admission.bytes == 60
        release()
    assert admission.bytes == 0
