"""Recordings of GPU passes, simulated on the CPU by plain calls."""

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.backends.cuda import CudaBackend, Lane, Recording, make_transfer_buffers
from model.images.preprocess import AnyPixels
from model.inference.classifier import Classifier
from model.inference.saliency import Explainer
from model.scores import softmax
from model.spec import ModelSpec

from .conftest import HYPERPARAMETERS

pytestmark = pytest.mark.usefixtures("_threads")

SIZE = HYPERPARAMETERS["image_size"]


class Replayed:
    """Stand-in for a CUDA graph, which calls a function."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.replay = run


class Recorder(CudaBackend):
    """A GPU backend on the CPU, which logs its recordings."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, torch.device("cpu"), "float32")
        self.recorded: list[torch.Size] = []

    def _record(self, lane: Lane, shape: torch.Size) -> Recording:
        self.recorded.append(shape)
        pixels = torch.zeros(shape)
        logits = self._network(pixels)

        def replay() -> None:
            logits.copy_(self._network(pixels))

        return Recording(Replayed(replay), pixels, logits, make_transfer_buffers(pixels, pin=False))


@pytest.fixture
def recorder(whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(
        "model.backends.cuda.open_lane",
        lambda device: Lane(None, pool=None),  # type: ignore[arg-type]
    )
    monkeypatch.setattr("torch.cuda.stream", lambda stream: nullcontext())
    return Recorder(whole)


def as_kind(pixels: AnyPixels, kind: str) -> AnyPixels:
    return pixels.astype(np.float32) if kind == "floats" else pixels


def noise(count: int) -> AnyPixels:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("first", ["bytes", "floats"])
def test_bytes_and_floats_share_a_recording(
    recorder: Recorder, whole: nn.Sequential, first: str
) -> None:
    recorder.open()
    for count in (1, 4):
        recorder.logits(as_kind(noise(count), first))
    for count in (4, 1):
        pixels = noise(count)
        with torch.inference_mode():
            expected = whole(torch.from_numpy(pixels)).softmax(-1).numpy()
        for kind in ("floats", "bytes", "floats"):
            found = softmax(recorder.logits(as_kind(pixels, kind)))
            assert found == pytest.approx(expected, abs=1e-5)
        between = softmax(recorder.logits(pixels.astype(np.float32) * 0.99))
        assert np.abs(between - expected).max() > 0, "floats were rounded to bytes"
    assert len(recorder.recorded) == 2


def test_warm_up_covers_bytes_and_floats_of_every_size(recorder: Recorder, spec: ModelSpec) -> None:
    classifier = Classifier(
        spec, "0" * 64, recorder, Explainer(nn.Identity, spec), max_batch_size=8
    )
    classifier.open()
    classifier.choose_batch_size([classifier.time_batches()])
    classifier.warm_up()
    recorded = list(recorder.recorded)
    zeros: Tensor = torch.zeros(3, SIZE, SIZE)
    floats = classifier.unnormalise(zeros.numpy().tobytes())
    for count in range(1, 9):
        classifier.predict([noise(1)[0]] * count, 1)
        classifier.predict([floats] * count, 1)
        classifier.predict([floats, *[noise(1)[0]] * (count - 1)], 1)
    assert recorder.recorded == recorded
