"""Compiled and recorded steps: same weights as plain steps, and warnings if they fail.

Tests that need a GPU are marked; the others replace the CUDA graph by a stand-in, which runs the
step again when it is replayed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from torch._dynamo.utils import counters

from model.evaluation.dataset import Dataset
from training import gpu_step
from training.batches import Batch, Batches
from training.gpu_step import GpuStep, cudnn_is_faster, layers_to_compile, prepare
from training.recipe import Recipe
from training.trainer import Trainer

RECIPE = Recipe(
    image_size=16,
    dim=16,
    depth=3,
    heads=2,
    dim_head=8,
    mlp_dim=16,
    epochs=3,
    decay_epochs=1,
    batch_size=8,
)
pytestmark = [
    pytest.mark.filterwarnings("ignore:::torch"),  # the compiler reads deprecated attributes
    pytest.mark.thorough,
]
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


class Replayed:
    """Stand-in for `Recording`: each call runs the step on the recorded batch's memory."""

    def __init__(self, step: Any, batch: Batch, stream: object) -> None:
        self.step, self.batch = step, Batch(*(part.clone() for part in batch))

    def __call__(self, batch: Batch) -> None:
        for mine, given in zip(self.batch, batch, strict=True):
            mine.copy_(given)
        self.step(self.batch)


@pytest.fixture
def images() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (80, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return Dataset(pixels, torch.arange(80) % 4, ("a", "b", "c", "d"))


@pytest.fixture
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def beside(stream: object) -> Iterator[None]:
        yield

    compiled = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(gpu_step, "beside", beside)
    monkeypatch.setattr(gpu_step, "Recording", Replayed)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace())
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)  # or steps use a copy of the layers
    torch.compiler.reset()
    counters.clear()


def weights(images: Dataset, folder: Path, *, fast: bool) -> dict[str, torch.Tensor]:
    trainer = Trainer(RECIPE, folder, images, images, plain_steps=True)
    step: Any = trainer._build_step()
    if fast:
        step = GpuStep(step, layers_to_compile(trainer.network))
    for batch in Batches(images, RECIPE, trainer.device).epoch(0):
        step(batch)
    return dict(trainer.network.state_dict())


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference between weights."""
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.mark.thorough
@pytest.mark.usefixtures("_without_gpu")
def test_compiled_and_recorded_steps_give_the_same_weights(
    images: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = weights(images, tmp_path, fast=False)
    assert distance(plain, weights(images, tmp_path, fast=True)) < 2e-2
    assert counters["stats"]["unique_graphs"] == 1, "the layers share one compiled form"
    assert "warning: " not in capsys.readouterr().err


@pytest.mark.usefixtures("_without_gpu")
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("compile", "warning: compiling failed; layers run uncompiled: RuntimeError: no"),
        (
            "Recording",
            "warning: recording a CUDA graph failed; Python launches every step",
        ),
    ],
)
def test_training_continues_without_failing_optimisations(
    images: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("no room\nand more")

    plain = weights(images, tmp_path, fast=False)
    monkeypatch.setattr(torch if broken == "compile" else gpu_step, broken, fail)
    found = weights(images, tmp_path, fast=True)
    assert distance(plain, found) < 2e-2
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1
    assert message in said
    assert "and more" not in said


@pytest.mark.usefixtures("_without_gpu")
def test_failed_step_leaves_no_gradients(
    images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head already has gradients when the backward pass of the layers fails."""

    def compiled(function: Any, **_: bool) -> Any:
        def forward(patches: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = function(patches)
            out.register_hook(fail)  # type: ignore[no-untyped-call]
            return out

        return forward

    def fail(_: object) -> NoReturn:
        raise RuntimeError("no kernel")

    plain = weights(images, tmp_path, fast=False)
    monkeypatch.setattr(torch, "compile", compiled)
    found = weights(images, tmp_path, fast=True)
    trained = [name for name in plain if "running" not in name and "tracked" not in name]
    assert all(torch.equal(plain[name], found[name]) for name in trained)


class TestOnGpu:
    pytestmark = on_gpu

    def test_recorded_steps_give_the_same_weights_as_plain_steps(
        self, images: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        plain = weights(images, tmp_path, fast=False)
        assert distance(plain, weights(images, tmp_path, fast=True)) < 5e-2
        assert "warning: " not in capsys.readouterr().err

    def test_stopped_run_resumes(self, images: Dataset, tmp_path: Path) -> None:
        for _ in range(2):
            trainer = Trainer(RECIPE, tmp_path, images, images)
            list(trainer.epochs())
        assert trainer.epoch == RECIPE.epochs

    def test_convolutions_are_timed(self, capsys: pytest.CaptureFixture[str]) -> None:
        cudnn_is_faster.cache_clear()  # measured and printed once per process
        enabled = torch.backends.cudnn.enabled
        prepare(RECIPE, torch.device("cuda", 0))
        torch.backends.cudnn.enabled = enabled
        assert "convolutions by" in capsys.readouterr().out
