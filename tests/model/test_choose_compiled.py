"""Choosing a compiled network, and its fallbacks, on a GPU simulated by the CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from model.backends import build, choose
from model.backends.agreement import probabilities
from model.backends.base import BackendOptions
from model.backends.choose import Choice, choose_backend
from model.backends.torch import TorchBackend
from model.errors import ModelError
from model.images.preprocess import AnyPixels
from model.scores import Logits

from .conftest import HYPERPARAMETERS

pytestmark = pytest.mark.usefixtures("_threads")

SIZE = HYPERPARAMETERS["image_size"]
COMPILED, RECORDED = "torch-compile-cudagraphs", "torch-cudagraphs"
Choose = Callable[..., Choice]
NO_COMPILER = "Triton needs a C compiler, and none was found: install gcc"


class FakeGpu(TorchBackend):
    """A stand-in for a GPU backend, on the CPU."""

    built: ClassVar[list[dict[str, Any]]] = []
    fault: Exception | None = None

    def __init__(
        self, network: nn.Module, device: torch.device, precision: str, **options: Any
    ) -> None:
        self.built.append(options)
        super().__init__(network, torch.device("cpu"), precision, streams=options["streams"])
        self.device = str(device)

    def logits(self, pixels: AnyPixels) -> Logits:
        if self.fault:
            raise self.fault
        return super().logits(pixels)


class FakeCompiled(FakeGpu):
    name = COMPILED


class FakeRecorded(FakeGpu):
    name = RECORDED


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """Simulate a GPU; returns the directories requested for kernels."""
    directories: list[Path | None] = []
    monkeypatch.setattr(choose, "visible_devices", lambda: ("cuda", "cpu"))
    monkeypatch.setattr(choose, "choose_device", torch.device)
    monkeypatch.setattr(choose, "fastest_precision", lambda device: "float32")
    monkeypatch.setattr(build, "keep_kernels", directories.append)
    for kind in (FakeCompiled, FakeRecorded):
        monkeypatch.setattr(kind, "built", [])
    monkeypatch.setattr(build, "CompiledCudaBackend", FakeCompiled)
    monkeypatch.setattr(build, "CudaBackend", FakeRecorded)
    return directories


@pytest.fixture
def chosen(whole: nn.Sequential) -> Choose:
    expected = probabilities(whole, SIZE)

    def call(**options: Any) -> Choice:
        return choose_backend(lambda: whole, SIZE, expected, BackendOptions(**options))

    return call


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:1"])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_compiled_network_is_the_first_choice_on_a_gpu(
    chosen: Choose, kept: list[Path | None], tmp_path: Path, device: str, backend: str
) -> None:
    found, reason, _ = chosen(
        compile=True, device=device, backend=backend, cores=6, cache_dir=tmp_path
    )
    assert (found.name, found.streams) == (COMPILED, 2)
    assert FakeCompiled.built == [{"streams": 2, "workers": 6}]
    assert kept == [tmp_path]
    assert reason.endswith("; agrees with 32-bit PyTorch")
    assert "not " not in reason


def test_network_is_not_compiled_by_default(chosen: Choose, kept: list[Path | None]) -> None:
    found, _, _ = chosen(device="cuda")
    assert found.name == RECORDED
    assert not FakeCompiled.built
    assert not kept


@pytest.mark.usefixtures("kept")
def test_network_that_cannot_be_compiled_falls_back_to_cuda_graphs(
    chosen: Choose, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(FakeCompiled, "fault", RuntimeError(NO_COMPILER))
    found, reason, _ = chosen(compile=True, device="cuda")
    assert found.name == RECORDED
    told = f"{COMPILED} in float32 on cuda"
    assert f"backend {told} is not used: {NO_COMPILER}" in caplog.text
    assert f"; not {told}: {NO_COMPILER}; agrees with" in reason


@pytest.mark.usefixtures("kept")
def test_compiled_network_with_different_answers_is_replaced(
    chosen: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FakeGpu.logits
    monkeypatch.setattr(
        FakeCompiled, "logits", lambda self, pixels: np.roll(real(self, pixels), 1, axis=1)
    )
    found, reason, _ = chosen(compile=True, device="cuda")
    assert found.name == RECORDED
    assert f"not {COMPILED} in float32 on cuda: a probability is" in reason


def test_without_a_gpu_log_and_reason_say_that_compile_has_no_effect(
    chosen: Choose, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choose, "visible_devices", lambda: ("cpu",))
    found, reason, _ = chosen(compile=True)
    assert found.device == "cpu"
    for text in (caplog.text, reason):
        assert text.count("compile is for a CUDA device and has no effect on cpu") == 1


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_compile_on_a_named_device_other_than_cuda_is_refused(
    chosen: Choose, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(choose, "choose_device", torch.device)
    with pytest.raises(ModelError, match=f"^compile needs a CUDA device; the device is {device}$"):
        chosen(compile=True, device=device)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_compile_with_openvino_is_refused(chosen: Choose, device: str) -> None:
    with pytest.raises(
        ModelError, match=r"^compile needs PyTorch on a CUDA device; the backend is openvino"
    ):
        chosen(compile=True, device=device, backend="openvino")
