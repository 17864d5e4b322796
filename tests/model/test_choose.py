"""Choosing a backend: order, failures and agreement."""

import logging
import sys
import types
import weakref
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.backends import build, choose
from model.backends.agreement import disagreement, probabilities
from model.backends.base import BackendOptions
from model.backends.choose import Choice, choose_backend
from model.backends.openvino import OpenVINOBackend
from model.backends.torch import TorchBackend, choose_device
from model.errors import CheckpointError, DeviceError, ModelError, OutOfMemory
from model.images.preprocess import AnyPixels
from model.scores import Logits, Scores

from .conftest import HYPERPARAMETERS

pytestmark = [pytest.mark.usefixtures("_threads"), pytest.mark.thorough]

SIZE = HYPERPARAMETERS["image_size"]
FAULTS = [
    DeviceError("cpu failed: machine check"),
    OutOfMemory("cpu is out of memory"),
    ImportError("libopenvino.so.2520: cannot open shared object file"),
    RuntimeError("no rule for aten::secret\nand more"),
    MemoryError(),
    ValueError("a NumPy of another ABI"),
    AttributeError("module 'openvino' has no attribute 'Core'"),
    KeyError("f32"),
    AssertionError(),
]


def chosen(whole: nn.Sequential, **options: object) -> Choice:
    expected = probabilities(whole, SIZE)
    return choose_backend(lambda: whole, SIZE, expected, BackendOptions(**options))  # type: ignore[arg-type]


class Failing(types.ModuleType):
    """A module from which nothing can be imported."""

    fault: Exception

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self.fault


def break_import(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    module = Failing("model.backends.openvino")
    module.fault = fault
    monkeypatch.setitem(sys.modules, module.__name__, module)


def break_graph(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    monkeypatch.setattr("model.backends.openvino_graph.to_graph", raising(fault))


def break_build(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    monkeypatch.setattr(OpenVINOBackend, "__init__", raising(fault))


def break_open(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    monkeypatch.setattr(OpenVINOBackend, "open", raising(fault))


def break_compile(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    monkeypatch.setattr(OpenVINOBackend, "_compile", raising(fault))


def raising(fault: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise fault

    return fail


BREAKS = [break_import, break_graph, break_build, break_open, break_compile]


@pytest.mark.parametrize(
    ("break_it", "fault"),
    [*((break_it, OSError("libtbb.so.12: invalid ELF header")) for break_it in BREAKS)]
    + [(break_compile, fault) for fault in FAULTS],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_any_failure_falls_back_to_the_next_backend(
    whole: nn.Sequential,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    break_it: Callable[[pytest.MonkeyPatch, Exception], None],
    fault: Exception,
) -> None:
    break_it(monkeypatch, fault)
    backend, reason, _ = chosen(whole, device="cpu", precision="float32")
    assert backend.name == "torch"
    told = choose.describe(fault)
    assert told in caplog.text
    assert f"; not openvino in float32 on cpu: {told}; agrees with" in reason
    assert "\n" not in reason


@pytest.mark.parametrize("break_it", BREAKS)
def test_named_backend_is_not_replaced(
    whole: nn.Sequential,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch, Exception], None],
) -> None:
    break_it(monkeypatch, ImportError("libtbb.so.12: cannot open shared object file"))
    with pytest.raises(ModelError, match=r"openvino in float32 on cpu: libtbb.so.12: cannot open"):
        chosen(whole, backend="openvino", precision="float32")


def test_checkpoint_that_cannot_be_built_raises_checkpoint_error(whole: nn.Sequential) -> None:
    expected = probabilities(whole, SIZE)
    with pytest.raises(CheckpointError, match="depth is 3, the weights have 2"):
        choose_backend(
            raising(CheckpointError("depth is 3, the weights have 2")),  # type: ignore[arg-type]
            SIZE,
            expected,
            BackendOptions(device="cpu"),
        )


def test_error_is_described_on_one_short_line() -> None:
    assert choose.describe(RuntimeError("\n  first\nsecond")) == "first"
    assert choose.describe(MemoryError()) == "MemoryError"
    assert choose.describe(ValueError("wrong")) == "ValueError: wrong"
    assert len(choose.describe(RuntimeError("x" * 10_000))) < 250


def test_rejected_backend_is_freed_before_the_next_is_built(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[weakref.ref[object]] = []
    alive: list[bool] = []

    class Wrong(OpenVINOBackend):
        def __init__(self, *args: object, **options: object) -> None:
            alive.extend(ref() is not None for ref in built)
            built.append(weakref.ref(self))
            super().__init__(*args, **options)  # type: ignore[arg-type]

        def logits(self, pixels: AnyPixels) -> Logits:
            return np.roll(super().logits(pixels), 1, axis=1)

    monkeypatch.setattr("model.backends.openvino.OpenVINOBackend", Wrong)
    chosen(whole, device="cpu", precision="bfloat16")
    assert alive == [False]
    assert built[-1]() is None


def lose_cuda(monkeypatch: pytest.MonkeyPatch, *, when: str) -> None:
    """A GPU that PyTorch sees, and that fails when opened or when a network is moved to it."""

    def choose_device(name: str) -> torch.device:
        if name == "cuda" and when == "asked":
            raise ModelError("device 'cuda' cannot be used here: CUDA error: device lost")
        return torch.device(name)

    monkeypatch.setattr(choose, "visible_devices", lambda: ("cuda", "cpu"))
    monkeypatch.setattr(choose, "choose_device", choose_device)
    monkeypatch.setattr(choose, "fastest_precision", lambda device: "float32")
    lost = raising(DeviceError("cuda failed: CUDA error: device lost"))
    monkeypatch.setattr(build, "CudaBackend", lost)
    real = TorchBackend

    def torch_backend(network: nn.Module, device: torch.device, *args: Any, **kw: Any) -> object:
        if device.type == "cuda":
            raise DeviceError("cuda failed: CUDA error: device lost")
        return real(network, device, *args, **kw)

    monkeypatch.setattr(build, "TorchBackend", torch_backend)


@pytest.mark.parametrize("when", ["asked", "used"])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_lost_gpu_falls_back_to_cpu_if_no_device_was_named(
    whole: nn.Sequential,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    when: str,
    backend: str,
) -> None:
    lose_cuda(monkeypatch, when=when)
    found, reason, _ = chosen(whole, backend=backend)
    assert (found.name, found.device) == ({"auto": "openvino"}.get(backend, "torch"), "cpu")
    for text in (reason, caplog.text):
        assert "CUDA error: device lost" in text


@pytest.mark.parametrize("when", ["asked", "used"])
def test_lost_gpu_that_was_named_is_an_error(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    lose_cuda(monkeypatch, when=when)
    with pytest.raises(ModelError, match="CUDA error: device lost"):
        chosen(whole, device="cuda")


def test_auto_chooses_openvino_on_cpu(whole: nn.Sequential) -> None:
    backend, reason, _ = chosen(whole, device="cpu", cores=2)
    assert backend.name == "openvino"
    assert backend.streams * backend.threads == 2
    assert reason == "first choice on cpu; agrees with 32-bit PyTorch"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_backend_precision_and_streams_can_be_chosen(whole: nn.Sequential, precision: str) -> None:
    backend, reason, _ = chosen(
        whole, backend="torch", device="cpu", precision=precision, cores=4, streams=2
    )
    assert (backend.name, backend.precision) == ("torch", precision)
    assert reason.startswith("torch was requested; ")
    backend.open()
    assert (backend.streams, torch.get_num_threads()) == (2, 2)


def test_disagreeing_backend_is_replaced_and_logged(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(OpenVINOBackend):
        def logits(self, pixels: AnyPixels) -> Logits:
            return np.roll(super().logits(pixels), 1, axis=1)

    monkeypatch.setattr("model.backends.openvino.OpenVINOBackend", Wrong)
    caplog.set_level(logging.WARNING)
    backend, reason, _ = chosen(whole, device="cpu", precision="bfloat16")
    assert backend.name == "torch"
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(" is not used: a probability is")[0] for line in told] == [
        "backend openvino in bfloat16 on cpu",
        "backend openvino in float32 on cpu",
    ]
    for precision in ("bfloat16", "float32"):
        assert f"not openvino in {precision} on cpu: a probability is" in reason


def test_weights_on_which_no_backend_agrees_are_refused(whole: nn.Sequential) -> None:
    expected = probabilities(whole, SIZE)[:, ::-1]
    with pytest.raises(
        ModelError, match=r"no backend can run this model: not openvino in .*: a prob"
    ):
        choose_backend(lambda: whole, SIZE, expected, BackendOptions(device="cpu"))


def test_agreement_requires_every_probability_and_the_best_class() -> None:
    class Fixed:
        name, device, precision = "fixed", "cpu", "bfloat16"
        streams, threads, largest_batch, pads = 1, 1, 4, False

        def __init__(self, found: Scores) -> None:
            self.found = found

        def open(self) -> None: ...

        def keep(self, sizes: Collection[int]) -> None: ...

        def kernels(self, size: int) -> None: ...

        def logits(self, pixels: AnyPixels) -> Logits:
            return np.log(self.found)

    def told(*row: float) -> str | None:
        expected = np.array([[0.6, 0.3, 0.1], [0.35, 0.34, 0.31]], np.float32)
        found = expected.copy()
        found[1] = row
        return disagreement(Fixed(found), expected, SIZE)

    assert told(0.35, 0.34, 0.31) is None
    assert told(0.33, 0.35, 0.32) is None  # two nearly equal classes change places
    assert "off by 0.05, more than 0.04" in (told(0.40, 0.34, 0.26) or "")
    assert told(float("nan"), 0.34, 0.31) is not None


@pytest.mark.parametrize("device", ["cuda:99", "mps"])
def test_missing_device_is_refused_by_name(device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(ModelError, match=f"device '{device}' cannot be used here"):
        choose_device(device)


def test_missing_backend_is_refused_by_name(
    whole: nn.Sequential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"not installed: pip install 'xcit-serve\[openvino\]'"):
        chosen(whole, backend="openvino")
    backend, reason, _ = chosen(whole, device="cpu")
    assert backend.name == "torch"
    assert reason == "openvino is not installed; agrees with 32-bit PyTorch"
