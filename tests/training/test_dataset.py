"""Datasets from folders and archives, with and without splits."""

import tarfile
from pathlib import Path

import pytest
import torch

from model.errors import ModelError
from model.evaluation.dataset import load_dataset
from model.spec import PreprocessSpec


def test_tar_gives_the_same_dataset_as_a_folder(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "images.tar.xz", "w:xz") as tar:
        tar.add(folder, "some/where")
    spec = PreprocessSpec(8)
    packed, plain = (
        load_dataset(source, "train", spec, quiet=True)
        for source in (tmp_path / "images.tar.xz", folder)
    )
    assert torch.equal(packed.pixels, plain.pixels)
    assert torch.equal(packed.classes, plain.classes)
    assert packed.labels == plain.labels == ("blue", "red")


def test_without_splits_a_tenth_of_each_class_is_held_out(folder: Path) -> None:
    spec = PreprocessSpec(8)
    train_set, test_set = (
        load_dataset(folder / "train", split, spec, quiet=True) for split in ("train", "test")
    )
    assert (len(train_set), len(test_set)) == (44, 4)
    assert test_set.classes.bincount().tolist() == [2, 2]


def test_unusable_images_are_named(folder: Path, tmp_path: Path) -> None:
    spec = PreprocessSpec(8)
    (folder / "train" / "red" / "00.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ModelError, match=r"red/00\.png: the PNG header is truncated"):
        load_dataset(folder, "train", spec, quiet=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no images for split 'train'"):
        load_dataset(tmp_path / "empty", "train", spec, quiet=True)
    (tmp_path / "no.tar").write_bytes(b"x")
    with pytest.raises(
        ModelError, match=r"no\.tar: neither a directory nor a readable tar archive$"
    ):
        load_dataset(tmp_path / "no.tar", "train", spec, quiet=True)
