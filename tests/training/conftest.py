"""A small image folder, a checkpoint trained on it, and a guard against decoding."""

from pathlib import Path
from typing import NoReturn

import pytest
import torch
from PIL import Image

from .runs import RECIPE, train


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """With several threads, small passes are slower: the threads wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Red and blue squares of varied shade, as an image folder."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 24), ("test", 8)):
        for label in ("blue", "red"):
            directory = tmp_path / "images" / split / label
            directory.mkdir(parents=True)
            for i in range(count):
                shade = int(torch.randint(80, 256, (), generator=generator))
                colour = (shade, 0, 0) if label == "red" else (0, 0, shade)
                Image.new("RGB", (8, 8), colour).save(directory / f"{i:02}.png")
    return tmp_path / "images"


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Path:
    """A trained checkpoint."""
    train(folder, tmp_path / "first", RECIPE)
    return tmp_path / "first" / "tiny.safetensors"


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if an image is decoded."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("images were decoded")

    monkeypatch.setattr("training.command.load_dataset", refuse)
