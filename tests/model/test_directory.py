"""Resolving the name of a checkpoint to a weight file, or to a helpful error."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from app.cli.main import main
from model.checkpoint import read_checkpoint
from model.errors import CheckpointError, ModelError
from model.evaluation.dataset import list_split
from model.sources.source import find_weights

from .test_xcit_published import TINY, network

NOBODY = 65534


@pytest.fixture
def fill(tmp_path: Path) -> Callable[..., Path]:
    """A directory with small PyTorch files of the given names."""

    def fill(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                torch.save({"of": name}, file)
        return tmp_path

    return fill


def refusal(checkpoint: str | Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_weights(checkpoint)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["weights.pth"], "weights.pth"),
        (["xcit"], "xcit"),
        (["epoch_10.model"], "epoch_10.model"),
        (["export/mine.ckpt"], "export/mine.ckpt"),
        (["model.safetensors", "pytorch_model.bin", "other.pt"], "model.safetensors"),
        (["last.pth.tar", "checkpoint-3.pth.tar", "model_best.pth.tar"], "model_best.pth.tar"),
        (["last.pth.tar", "checkpoint-3.pth.tar", "checkpoint-9.pth.tar"], "last.pth.tar"),
        (["run/last.pth.tar", "run/model_best.pth.tar"], "run/model_best.pth.tar"),
        (["shapes.safetensors", "last.pt", "steady.pt"], "shapes.safetensors"),
        (["last.ckpt", "epoch=3-step=10.ckpt"], "last.ckpt"),
        (["checkpoint_best.pt", "checkpoint_last.pt"], "checkpoint_best.pt"),
        (["weights.pth", "._weights.pth", ".hidden.pt"], "weights.pth"),
        (["weights.pth", ".git/lfs/other.pth", "__MACOSX/._weights.pth"], "weights.pth"),
        (
            ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt"],
            "pytorch_model.bin",
        ),
        (
            ["mine.bin", "rng_state.pth", "rng_state_0.pth", "scaler.pt", "optimizer.bin"],
            "mine.bin",
        ),
        (["code/inference.py", "weights.pt"], "weights.pt"),
        (["weights.pt", "other\x1b[31m.pt", "a\nINFO ready/other.pt"], "weights.pt"),
        (
            [
                "global_step3/mp_rank_00_model_states.pt",
                "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt",
            ],
            "global_step3/mp_rank_00_model_states.pt",
        ),
        (["run-1\n/weights.pt", "run-2/weights.pt"], "run-2/weights.pt"),
        (["code/inference.py", "a/b/c/weights.pt"], "a/b/c/weights.pt"),
    ],
    ids=str,
)
def test_weight_file_of_a_directory_is_chosen(
    fill: Callable[..., Path], names: list[str], chosen: str
) -> None:
    directory = fill(*names)
    assert find_weights(directory).path == directory / chosen
    assert find_weights(f"{directory}/").path == directory / chosen


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "the directory has no weight file; expected one such as model.safetensors"),
        (["training_args.bin"], "the directory has no weight file"),
        (["a.pth", "b.pth"], "it has several weight files: a.pth, b.pth; name the one to use"),
        (["x/a.pth", "y/b.pth"], "it has several weight files: x/a.pth, y/b.pth; name the one"),
        ([f"{i}.pth" for i in range(9)], "0.pth, 1.pth, 2.pth, 3.pth, 4.pth and 4 more"),
        (["best_a.pt", "best_b.pt", "last.pt"], "several weight files: best_a.pt, best_b.pt"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "weights in several files (shards) are not supported; save them as one file",
        ),
        (["saved_model.pb"], "a TensorFlow SavedModel"),
        ([".metadata", "__0_0.distcp"], "dcp_to_torch"),
    ],
    ids=str,
)
def test_ambiguous_directories_are_refused(
    fill: Callable[..., Path], names: list[str], message: str
) -> None:
    directory = fill(*names)
    told = refusal(directory)
    assert told.startswith(str(directory))
    assert message in told


def test_named_shard_is_refused(fill: Callable[..., Path]) -> None:
    directory = fill("model-00001-of-00002.safetensors")
    assert "one of several shards" in refusal(directory / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("timm/xcit_nano_12_p16_224.fb_in1k", "hf-hub:timm/xcit_nano_12_p16_224.fb_in1k"),
        ("timm/mine@v2", "hf-hub:timm/mine@v2"),
        ("timm:xcit_nano_12_p16_224", "hf-hub:timm/xcit_nano_12_p16_224"),
        ("hf_hub:timm/mine", "hf-hub:timm/mine"),
        ("HF-HUB:timm/mine@main", "hf-hub:timm/mine@main"),
        ("hfhub: timm/mine", None),
        ("hf://timm/mine", "hf-hub:timm/mine"),
        ("hf-hub/timm/mine", "hf-hub:timm/mine"),
        ("huggingface:timm/mine", "hf-hub:timm/mine"),
        ("https://huggingface.co/timm/mine", "hf-hub:timm/mine"),
        ("https://huggingface.co/timm/mine/tree/v2", "hf-hub:timm/mine@v2"),
        (
            "https://huggingface.co/timm/mine/resolve/main/model.safetensors",
            "hf-hub:timm/mine@main",
        ),
        ("huggingface.co/timm/mine?library=timm", "hf-hub:timm/mine"),
        ("hf-hub:https://hf.co/timm/mine", "hf-hub:timm/mine"),
        ("me/birds", "hf-hub:me/birds"),
    ],
)
def test_other_spellings_of_a_repository_get_a_hint(text: str, hint: str | None) -> None:
    told = refusal(text)
    assert told.startswith(text)
    assert hint is None or told.endswith(f"for a Hugging Face repository, use {hint}")


@pytest.mark.parametrize("text", ["https://example.org/w.pth", "s3://bucket/w.pth", "gs://b/w.pt"])
def test_urls_are_refused(text: str) -> None:
    assert refusal(text) == f"{text}: a URL, not a file; download it first"
    assert refusal("file:///a/w.pt").endswith("a URL; give only the path of the file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("no\nsuch.pt", "control character U+000A"),
        ("x" * 300, "File name too long"),
        ("x" * 5000, "has 5000 characters"),
        ("/nowhere/weights.pt", "cannot be read: No such file or directory"),
        ("/dev/zero", "not a regular file"),
    ],
    ids=["empty", "newline", "long name", "long path", "missing", "device"],
)
def test_unreadable_paths_are_refused(text: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pipe_instead_of_weights_does_not_block(tmp_path: Path) -> None:
    pipe = tmp_path / "weights.pt"
    os.mkfifo(pipe)
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_checkpoint(pipe)


@contextmanager
def another_user() -> Iterator[None]:
    """Drop the rights of root, who may read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def let_others_pass(directory: Path) -> None:
    """Give other users access to pytest's directories, which are private."""
    for parent in (*directory.parents, directory):
        if parent != Path("/tmp") and parent.is_relative_to("/tmp"):
            parent.chmod(0o755)


@pytest.mark.parametrize("locked", ["private", "private/run", "private/run/model.safetensors"])
def test_unreadable_files_give_one_line_in_every_command(
    tmp_path: Path, locked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "private" / "run" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_file(dict(network(**TINY).state_dict()), path)
    let_others_pass(tmp_path)
    (tmp_path / locked).chmod(0)
    commands: tuple[tuple[Any, ...], ...] = (
        ("inspect", path),
        ("inspect", path.parent),
        ("convert", path, tmp_path / "out.safetensors"),
        ("predict", "photo.jpg", "--checkpoint", path),
        ("explain", "photo.jpg", "out.png", "--checkpoint", path),
        ("evaluate", path, tmp_path),
        ("evaluate", path, tmp_path, "--labels", path),
    )
    try:
        for command in commands:
            with another_user():
                code = main([str(word) for word in command])
            (line,) = capsys.readouterr().err.splitlines()
            assert code == 1, command
            assert re.fullmatch(rf"xcit-serve: {path.parent}.*: cannot be read: .*denied", line)
    finally:
        (tmp_path / locked).chmod(0o700)


def test_unreadable_directory_is_an_error_only_if_no_other_has_weights(
    fill: Callable[..., Path],
) -> None:
    """The root of a volume often has a ``lost+found`` directory that only root may read."""
    directory = fill("run/weights.pt")
    let_others_pass(directory)
    locked = directory / "lost+found"
    locked.mkdir(mode=0)
    with another_user():
        assert find_weights(directory).path == directory / "run" / "weights.pt"
    (directory / "run" / "weights.pt").unlink()
    with another_user():
        assert refusal(directory) == f"{locked}: cannot be read: Permission denied"


def test_images_in_unreadable_or_hidden_folders(tmp_path: Path) -> None:
    for name in ("train/ant/1.jpg", "train/ant/._1.jpg", "train/.cache/2.jpg", "test/ant/3.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [str(p) for p in list_split(tmp_path / "images", "train")] == ["train/ant/1.jpg"]
    tmp_path.chmod(0)
    try:
        with another_user(), pytest.raises(ModelError, match="cannot be read: Permission denied"):
            list_split(tmp_path / "images", "train")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(("name", "refused"), [("bee", True), ("lost+found", False)])
def test_unreadable_class_folder_is_an_error(tmp_path: Path, name: str, refused: bool) -> None:
    for label in ("ant", name):
        (tmp_path / "images" / "train" / label).mkdir(parents=True)
        (tmp_path / "images" / "train" / label / "1.jpg").touch()
    locked = tmp_path / "images" / "train" / name
    let_others_pass(tmp_path)
    locked.chmod(0)
    try:
        with another_user():
            if refused:
                with pytest.raises(ModelError, match=f"{locked}: cannot be read: Permission"):
                    list_split(tmp_path / "images", "train")
            else:
                found = list_split(tmp_path / "images", "train")
                assert [str(path) for path in found] == ["train/ant/1.jpg"]
    finally:
        locked.chmod(0o700)


@pytest.mark.parametrize("text", ["./weights.pth", "models/weights.pth", "../no/such/model.bin"])
def test_missing_path_is_not_taken_for_a_repository(text: str) -> None:
    assert refusal(text) == f"{text}: cannot be read: No such file or directory"
