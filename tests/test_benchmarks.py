"""Splitting and merging loads, complaints about reloads, and contenders that fail."""

import re
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import executors
from benchmarks.clients import Plan, merge
from benchmarks.load.generator import BROKEN, Outcome
from benchmarks.reloads import MIB, Memory, complaints
from model.backends.base import Backend
from model.backends.torch import TorchBackend
from model.checkpoint import BUNDLED_CHECKPOINT, read_checkpoint
from model.errors import OutOfMemory
from model.families.simplify import baseline
from model.images.preprocess import AnyPixels
from model.scores import Logits


@given(st.integers(1, 600), st.integers(1, 16), st.none() | st.floats(0.1, 1e5))
def test_split_load_sums_to_the_whole(callers: int, parts: int, rate: float | None) -> None:
    split = Plan(1.0, callers, rate).split(parts)
    assert len(split) == min(parts, callers)
    assert sum(part.callers for part in split) == callers
    assert max(part.callers for part in split) - min(part.callers for part in split) <= 1
    assert len({part.seed for part in split}) == len(split)
    if rate is None:
        assert {part.rate for part in split} == {None}
    else:
        assert sum(part.rate or 0 for part in split) == pytest.approx(rate)


def test_outcomes_of_several_clients_are_merged() -> None:
    one = Outcome(2.0, 0.5, [0.1, 0.2], statuses=Counter({200: 2}))
    other = Outcome(
        4.0, 0.25, [0.3], [0.1], Counter({200: 1, 503: 1, BROKEN: 1}), Counter({"x": 1})
    )
    whole = merge([one, other])
    assert (whole.seconds, whole.cpu_seconds) == (4.0, 0.75)
    assert whole.throughput == 3 / 4
    assert whole.percentile(100) == 0.3
    assert whole.statuses == {200: 3, 503: 1, BROKEN: 1}
    assert whole.failures == {"x": 1}


def memories(*device_mib: int | None) -> list[Memory]:
    return [Memory(None if mib is None else mib * MIB, 0.0) for mib in device_mib]


def test_reloads_without_losses_or_leaks_have_no_complaints() -> None:
    outcome = Outcome(statuses=Counter({200: 10}))
    assert not complaints(memories(500, 1000, 1200, 1049), outcome, on_device=True)
    assert not complaints(memories(None, None), outcome, on_device=False)


@pytest.mark.parametrize(
    ("device_mib", "statuses", "told"),
    [
        ((500, 1000, 1051), {200: 10}, r"changed by \+5.1%"),
        ((500, 1000, 900), {200: 10}, r"changed by -10.0%"),
        ((None, None, None), {200: 10}, "could not be read"),
        ((500, 1000, 1000), {200: 10, 503: 2}, "2 requests were not answered with 200: 2 x 503"),
        ((500, 1000, 1000), {200: 10, BROKEN: 1}, "1 requests were not answered with 200"),
    ],
)
def test_reloads_that_lose_requests_or_memory_are_named(
    device_mib: tuple[int | None, ...], statuses: dict[int, int], told: str
) -> None:
    (found,) = complaints(
        memories(*device_mib), Outcome(statuses=Counter(statuses)), on_device=True
    )
    assert re.search(told, found)


class Small(TorchBackend):
    """A backend with memory for one image."""

    def logits(self, pixels: AnyPixels) -> Logits:
        if len(pixels) > 1:
            raise OutOfMemory("cuda is out of memory")
        return super().logits(pixels)


def test_contenders_that_fail_are_named_and_others_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Backend:
        raise RuntimeError("no kernel for it")

    def contenders(*_: object) -> dict[str, executors.Build]:
        network = baseline(checkpoint.build(), checkpoint.spec.preprocess)
        return {
            "broken": broken,
            "small, float32": lambda: Small(network, torch.device("cpu"), "float32"),
            "large, float32": lambda: TorchBackend(network, torch.device("cpu"), "float32"),
        }

    checkpoint = read_checkpoint(BUNDLED_CHECKPOINT)
    monkeypatch.setattr(executors, "contenders_on_cpu", contenders)
    monkeypatch.setitem(executors.CEILING_SIDE, "cpu", 64)
    command = [str(BUNDLED_CHECKPOINT), "--batch-sizes", "1", "2", "--rounds=2", "--seconds=0.001"]
    with pytest.raises(SystemExit) as ended:
        executors.main(command)
    assert ended.value.code == 1
    told = capsys.readouterr()
    rows = {line.split(" | ")[0]: line.split(" | ")[1:3] for line in told.out.splitlines()}
    assert float(rows["| small, float32"][0]) > 0
    assert rows["| small, float32"][1] == "-"
    assert float(rows["| large, float32"][1]) > 0
    assert "Not measured: broken\n\nNot measured: small, float32, batch 2\n" in told.out
    assert told.err.splitlines() == [
        "broken: RuntimeError: no kernel for it",
        "small, float32, batch 2: OutOfMemory: cuda is out of memory",
    ]


def test_contenders_of_a_gpu_can_be_built() -> None:
    checkpoint = read_checkpoint(BUNDLED_CHECKPOINT)
    found = executors.contenders_on_gpu(checkpoint, torch.device("cpu"))
    for kind, backend in executors.ON_A_GPU.items():
        for precision in executors.PRECISIONS:
            for streams in (1, 2):
                built = found[f"{kind}, {precision}, {streams} streams"]()
                assert isinstance(built, backend)
                assert (built.precision, built.streams) == (precision, streams)
