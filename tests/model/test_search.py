"""Choosing the network in a file, and ignoring what only looks like one."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.cli.main import main
from model.checkpoint import read_checkpoint

from .test_training_file_tensors import refusal
from .test_training_files import COUNTER, other, prefixed, same
from .test_xcit_published import TINY, network

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def published() -> State:
    return dict(network(**TINY).state_dict())


@pytest.mark.parametrize(
    ("payload", "place", "averaged"),
    [
        (lambda s: {"state_dict": other(s), "state_dict_ema": s}, "state_dict_ema", True),
        (lambda s: {"model": other(s), "ema": {"module": s}}, "ema.module", True),
        (lambda s: {**prefixed("net.", other(s)), **prefixed("ema.", s)}, "ema", True),
        (
            lambda s: {"network": other(s), "average": prefixed("module.", s)},
            "average.module",
            True,
        ),
        (lambda s: prefixed("online_model.", other(s)) | prefixed("m.", s), "m", False),
        (lambda s: {"current_model_state": other(s), "state_dict": s}, "state_dict", False),
        (lambda s: {"a": s, "b": {key: t.clone() for key, t in s.items()}}, "a", False),
        (
            lambda s: {"ema": prefixed("online_model.", other(s)) | prefixed("ema_model.", s)},
            "ema.ema_model",
            True,
        ),
        (lambda s: {"model": other(s), "modelEma": s}, "modelEma", True),
        (lambda s: {"student": other(s), "teacher": prefixed("net.", s)}, "teacher.net", True),
        (
            lambda s: {"state_dict": other(s), "callbacks": {"EMACallback": {"sd": s}}},
            "callbacks.EMACallback.sd",
            True,
        ),
        (lambda s: {"last": other(s), "best": s}, "best", False),
        (lambda s: {"model": other(s), "best_model": s}, "best_model", False),
        (lambda s: {"best": other(s), "best_ema": s}, "best_ema", True),
        (lambda s: {"best": {"model": other(s), "ema": s}}, "best.ema", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_average_is_preferred_among_several_networks(
    save: Callable[[object], Path],
    published: State,
    payload: Callable[[State], object],
    place: str,
    averaged: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    path = save(payload(published))
    found = read_checkpoint(path)
    assert (found.place, found.averaged, len(found.others)) == (place, averaged, 1)
    assert same(path, published)
    assert f"weights from {place}" in caplog.text
    assert f"not used: {found.others[0]}" in caplog.text


def test_equally_good_networks_are_listed_in_the_error(
    save: Callable[[object], Path], published: State
) -> None:
    told = refusal(save({"state_dict": published, "fold2": {"model": other(published)}}))
    assert "it has several networks: state_dict, fold2.model; save only the weights" in told


@pytest.mark.parametrize(
    "difference", [{"depth": 4}, {"depth": 1}, {"mlp_dim": 128}, {"dim": 128}, {"num_classes": 7}]
)
@pytest.mark.parametrize("names", [("student", "teacher"), ("model", "ema"), ("last", "best")])
def test_networks_of_different_shapes_are_ambiguous(
    save: Callable[[object], Path],
    published: State,
    difference: dict[str, int],
    names: tuple[str, str],
) -> None:
    """In a distillation the teacher is another network; the student should be served."""
    larger = dict(network(**TINY | difference).state_dict())
    for states in ((published, larger), (larger, published)):
        told = refusal(save(dict(zip(names, states, strict=True))))
        assert f"it has several networks: {', '.join(names)}; save only the weights" in told


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("head._orig_mod.weight", "head.weight"), "'head.weight' is split into several tensors"),
        (("head.weight._data", "head.weight._scale"), "key 'head.weight' is missing"),
    ],
)
def test_split_tensors_are_named(
    save: Callable[[object], Path], published: State, parts: tuple[str, str], message: str
) -> None:
    rest = {key: tensor for key, tensor in published.items() if key != "head.weight"}
    assert message in refusal(save({**rest, **dict.fromkeys(parts, torch.ones(5, 64))}))


def test_single_tensor_is_refused(save: Callable[[object], Path]) -> None:
    assert "a single tensor; expected a dictionary" in refusal(save(torch.ones(3)))


@pytest.mark.parametrize(
    "place",
    ["ema_of_gradients", "exp_avg", "optim.exp_avg_sq", "optimizer_state.ema", "x.momentum_buffer"],
)
@pytest.mark.parametrize("whole", [False, True])
def test_optimiser_state_keyed_by_name_is_not_a_network(
    save: Callable[[object], Path], published: State, place: str, whole: bool
) -> None:
    """Optimisers average gradients, and have no state for buffers, which may be added."""
    kept = {k: t for k, t in other(published).items() if "running" not in k and COUNTER not in k}
    averages: Any = other(published) if whole and "gradients" not in place else kept
    for name in reversed(place.split(".")):
        averages = {name: averages}
    path = save({**averages, "model": published})
    assert read_checkpoint(path).place == "model"
    assert same(path, published)


def test_deepspeed_directory_of_zero_stages_1_and_2(tmp_path: Path, published: State) -> None:
    step = tmp_path / "global_step3"
    step.mkdir()
    (tmp_path / "latest").write_text("global_step3")
    (tmp_path / "zero_to_fp32.py").write_text("")
    torch.save({"module": prefixed("module.", published)}, step / "mp_rank_00_model_states.pt")
    optimiser = {"optimizer_state_dict": {"exp_avg": other(published)}}
    torch.save(optimiser, step / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    assert same(tmp_path, published)


def test_weights_sharded_by_deepspeed_are_refused_with_advice(
    save: Callable[[object], Path], published: State
) -> None:
    told = refusal(save({"module": {key: torch.empty(0) for key in published}}))
    assert "zero_to_fp32.py DIRECTORY OUTPUT" in told


def test_lora_adapters_are_refused_with_advice(
    save: Callable[[object], Path], published: State
) -> None:
    adapter = {"base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.ones(4, 64)}
    assert "only LoRA adapters" in refusal(save(adapter))
    beside = {**prefixed("base_model.model.", published), **adapter}
    assert "LoRA adapters are not merged; merge them: model.merge_and_unload()" in refusal(
        save(beside)
    )


def test_inspect_prints_where_weights_were_found(
    save: Callable[[object], Path], published: State, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save({"state_dict": other(published), "state_dict_ema": published})
    assert main(["inspect", str(path)]) == 0
    assert "121 tensors  (state_dict_ema, an average (EMA); not used: state_dict)" in (
        capsys.readouterr().out
    )


def test_inspect_prints_one_line_per_value_for_any_file(
    save: Callable[[object], Path], published: State, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save({"\x1b[31m\nlabels  cat": published})
    assert main(["inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert [line.split()[0] for line in lines].count("labels") == 1
