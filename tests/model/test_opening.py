"""Starting a classifier with batch sizes that are slow or cannot be run."""

from collections.abc import Callable

import pytest
from torch import nn

from model.errors import DeviceError, ModelError, OutOfMemory
from model.images.preprocess import AnyPixels
from model.inference.classifier import Classifier
from model.inference.saliency import Explainer
from model.scores import Logits
from model.spec import ModelSpec

from .test_classifier import FakeBackend


class Timed(FakeBackend):
    """A backend with a simulated clock, which fails above a batch size.

    Attributes:
        taken: seconds per pass, by batch size and index of the pass.
    """

    def __init__(self, taken: Callable[[int, int], float] = lambda size, number: 0.01) -> None:
        super().__init__()
        self.taken, self.now = taken, 0.0
        self.most = 8
        self.fault: Exception = OutOfMemory("cuda is out of memory")

    def logits(self, pixels: AnyPixels) -> Logits:
        if len(pixels) > self.most:
            raise self.fault
        self.now += self.taken(len(pixels), len(self.sizes))
        return super().logits(pixels)


def classifier_on(spec: ModelSpec, backend: Timed, size: int | None = None) -> Classifier:
    return Classifier(
        spec,
        "0" * 64,
        backend,
        Explainer(nn.Identity, spec),
        max_batch_size=size,
        clock=lambda: backend.now,
    )


@pytest.mark.parametrize("stalled", range(12))
def test_one_slow_pass_does_not_drop_a_batch_size(spec: ModelSpec, stalled: int) -> None:
    backend = Timed(lambda size, number: 5.0 if number == stalled else 0.01)
    classifier = classifier_on(spec, backend)
    classifier.open()
    assert classifier.max_batch_size == 8


@pytest.mark.parametrize("slow", [1, 2, 4])
def test_batch_sizes_over_the_time_limit_are_dropped(spec: ModelSpec, slow: int) -> None:
    backend = Timed(lambda size, number: 0.2 if size >= slow else 0.01)
    classifier = classifier_on(spec, backend)
    classifier.open()
    assert classifier.max_batch_size == slow
    passes = len(backend.sizes)
    classifier.open()  # the next inference thread
    assert len(backend.sizes) < 2 * passes


@pytest.mark.parametrize("most", [1, 2, 4])
@pytest.mark.parametrize(
    "fault", [OutOfMemory("cuda is out of memory"), MemoryError(), RuntimeError("no kernel for it")]
)
def test_batch_size_that_cannot_be_run_is_dropped(
    spec: ModelSpec, caplog: pytest.LogCaptureFixture, most: int, fault: Exception
) -> None:
    backend = Timed()
    backend.most, backend.fault = most, fault
    classifier = classifier_on(spec, backend)
    classifier.open()
    assert classifier.max_batch_size == most
    assert f"batches of {2 * most} images are disabled: " in caplog.text


def test_named_batch_size_that_cannot_be_run_is_an_error(spec: ModelSpec) -> None:
    backend = Timed()
    backend.most = 2
    with pytest.raises(ModelError, match="a batch of 4 images cannot be run: cuda is out"):
        classifier_on(spec, backend, 6).open()


@pytest.mark.parametrize("fault", [OutOfMemory("out of memory"), RuntimeError("no kernel for it")])
def test_device_on_which_no_batch_runs_is_an_error(spec: ModelSpec, fault: Exception) -> None:
    backend = Timed()
    backend.most, backend.fault = 0, fault
    with pytest.raises(ModelError, match=str(fault)):
        classifier_on(spec, backend).open()


def test_device_lost_at_a_larger_batch_is_an_error(spec: ModelSpec) -> None:
    backend = Timed()
    backend.most, backend.fault = 2, DeviceError("cuda failed")
    with pytest.raises(DeviceError, match="cuda failed"):
        classifier_on(spec, backend).open()
