"""Dividing the cores of a CPU into streams, with given measurements."""

import logging
from collections.abc import Callable, Collection
from itertools import count as count_up

import numpy as np
import pytest
from torch import nn

from model.backends import streams
from model.backends.agreement import probabilities
from model.backends.base import Backend, BackendOptions
from model.backends.choose import choose_backend
from model.backends.streams import divide_cores, throughput
from model.errors import DeviceError
from model.images.preprocess import AnyPixels
from model.scores import Logits

from .conftest import HYPERPARAMETERS

pytestmark = pytest.mark.usefixtures("_threads")

SIZE = HYPERPARAMETERS["image_size"]


class Bare:
    """A backend that does nothing."""

    name, device, precision, largest_batch, pads = "bare", "cpu", "float32", 4, False

    def __init__(self, streams: int, threads: int) -> None:
        self.streams, self.threads = streams, threads

    def open(self) -> None: ...

    def keep(self, sizes: Collection[int]) -> None: ...

    def kernels(self, size: int) -> None: ...

    def logits(self, pixels: AnyPixels) -> Logits:
        return np.zeros((len(pixels), 3), np.float32)


Rates = Callable[[Backend], float]


def divided(
    monkeypatch: pytest.MonkeyPatch,
    rates: Rates,
    cores: int,
    beside: float | None = None,
    *,
    single_threaded: bool = False,
) -> tuple[int, int]:
    """Streams and threads chosen for the given images per second."""
    monkeypatch.setattr(streams, "throughput", lambda backend, *_: rates(backend))
    options = BackendOptions(cores=cores)
    found = divide_cores(
        Bare,
        SIZE,
        options,
        None if beside is None else lambda: beside,
        single_threaded=single_threaded,
    )
    return found.streams, found.threads


@pytest.mark.parametrize(
    ("rates", "expected"),
    [({4: 100, 2: 105, 1: 90}, 4), ({4: 100, 2: 120, 1: 90}, 2), ({4: 100, 2: 120, 1: 130}, 1)],
)
def test_streams_have_one_thread_unless_fewer_streams_are_much_faster(
    monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], expected: int
) -> None:
    found = divided(monkeypatch, lambda backend: rates[backend.streams], 4)
    assert found == (expected, 4 // expected)


@pytest.mark.parametrize(
    ("beside", "expected"), [(0.0, 4), (0.002, 4), (0.01, 3), (0.02, 2), (0.5, 1)]
)
def test_network_gets_enough_cores_to_keep_pace_with_other_work(
    monkeypatch: pytest.MonkeyPatch, beside: float, expected: int
) -> None:
    assert divided(monkeypatch, lambda _: 100.0, 4, beside) == (expected, 1)


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("beside", [0.0, 1e-4, 1e-2, 1.0])
def test_single_threaded_streams_stay_single_threaded(
    monkeypatch: pytest.MonkeyPatch, cores: int, beside: float
) -> None:
    """Even if several threads are measured as a hundred times as fast."""

    def rates(backend: Backend) -> float:
        return 10_000.0 if backend.threads > 1 else 100.0

    found = divided(monkeypatch, rates, cores, beside, single_threaded=True)
    assert found[1] == 1
    assert 1 <= found[0] <= cores


def test_short_load_while_measuring_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(rates: dict[int, float], slow: set[int]) -> Rates:
        calls = {count: count_up() for count in rates}
        return lambda backend: (
            rates[backend.streams] / (9 if next(calls[backend.streams]) in slow else 1)
        )

    rates = {4: 100.0, 2: 105.0, 1: 90.0}
    for slow in ({0}, {1}, {0, 1}, {1, 2}):
        assert divided(monkeypatch, noisy(rates, slow), 4) == (4, 1)
        assert divided(monkeypatch, noisy(rates | {1: 100.0}, slow), 4, 0.01) == (3, 1)


def test_pytorch_runs_single_threaded_streams_when_serving(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if all cores are needed and several threads are measured as faster."""
    monkeypatch.setattr(streams, "throughput", lambda backend, *_: 100.0 * backend.threads**2)
    expected = probabilities(whole, SIZE)

    def found(backend: str, *, serving: bool) -> tuple[int, int]:
        options = BackendOptions(
            backend=backend, device="cpu", precision="float32", cores=4, serving=serving
        )
        chosen = choose_backend(
            lambda: whole, SIZE, expected, options, (lambda: 0.0) if serving else None
        ).backend
        return chosen.streams, chosen.threads

    assert found("torch", serving=True) == (4, 1)
    assert found("torch", serving=False) == (1, 4)


@pytest.mark.parametrize(
    ("choice", "warned"), [(1, True), (2, True), (4, False), (8, False), (None, False)]
)
def test_named_number_of_streams_is_kept_with_a_warning_if_threads_share_a_pass(
    whole: nn.Sequential, caplog: pytest.LogCaptureFixture, choice: int | None, warned: bool
) -> None:
    caplog.set_level(logging.WARNING)
    options = BackendOptions(
        backend="torch", device="cpu", precision="float32", cores=4, streams=choice, serving=True
    )
    expected = probabilities(whole, SIZE)
    backend = choose_backend(lambda: whole, SIZE, expected, options, lambda: 1.0).backend
    if choice:
        assert (backend.streams, backend.threads) == (choice, max(1, 4 // choice))
    assert ("set streams to 4 to avoid it" in caplog.text) == warned


def test_failing_stream_ends_the_measurement_with_its_error() -> None:
    class Fails(Bare):
        def open(self) -> None:
            raise DeviceError("cpu failed")

    with pytest.raises(DeviceError, match="cpu failed"):
        throughput(Fails(3, 1), np.zeros((1, SIZE, SIZE, 3), np.uint8), 0.01)
