"""Labelled images for training and evaluation, from an image folder or a tar archive of one."""

import os
import random
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.errors import ModelError
from model.images.formats import SUFFIXES
from model.images.preprocess import preprocess
from model.spec import PreprocessSpec

HELD_OUT = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Decoded images: pixels ``(n, size, size, 3)`` as bytes, classes ``(n,)``, and labels."""

    pixels: Tensor
    classes: Tensor
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.classes)

    def part(self, chosen: Tensor) -> "Dataset":
        """The images selected by the mask ``chosen``, ``(n,)`` of bool."""
        return Dataset(self.pixels[chosen], self.classes[chosen], self.labels)


def load_dataset(source: Path, split: str, spec: PreprocessSpec, *, quiet: bool = False) -> Dataset:
    """Load all images of one split, with the server's own preprocessing.

    Args:
        source, split: see `list_split`.

    Raises:
        ModelError: there are no images, or one does not decode; the message names the file.
    """
    return load_images(source, list_split(source, split), spec, f"decode {split}", quiet=quiet)


def load_images(
    source: Path,
    wanted: Sequence[PurePosixPath],
    spec: PreprocessSpec,
    title: str,
    *,
    quiet: bool = False,
) -> Dataset:
    """Load the ``wanted`` images, in that order.

    Args:
        title: title of the progress bar, which ``quiet`` hides.

    Raises:
        ModelError: an image does not decode; the message names the file.
    """
    labels = tuple(sorted({path.parent.name for path in wanted}))
    pixels = np.empty((len(wanted), spec.image_size, spec.image_size, 3), np.uint8)
    classes = torch.empty(len(wanted), dtype=torch.int64)
    position = {path: i for i, path in enumerate(wanted)}
    progress = tqdm(total=len(wanted), desc=title, unit="image", disable=quiet)
    with progress:
        for path, data in read_images(source, position):
            try:
                pixels[position[path]] = preprocess(data, spec)
            except ModelError as error:
                raise ModelError(f"{source}: {path}: {error}") from error
            classes[position[path]] = labels.index(path.parent.name)
            progress.update()
    return Dataset(torch.from_numpy(pixels), classes, labels)


def list_split(source: Path, split: str) -> list[PurePosixPath]:
    """The images of one split, in a stable order; the folder of an image is its label.

    Args:
        source: a directory or tar archive (plain or compressed) laid out as ``train/LABEL/IMAGE``
            and ``test/LABEL/IMAGE`` (or ``val``), at any depth; or as ``LABEL/IMAGE``, where a
            seeded tenth of each class is held out for testing.
        split: ``train`` or ``test``; or ``any``: the test images, or all images if the folders do
            not separate train from test.

    Raises:
        ModelError: there are no images, or ``source`` cannot be read.
    """
    found = _list_images(source)
    labelled = [path for path in found if len(path.parts) > 1]
    paths = _choose(labelled, split)
    if not paths:
        reason = f"no images for split {split!r}"
        if found and not labelled:
            reason = f"its {len(found)} images are in no folder"
        raise ModelError(f"{source}: {reason}; expected files such as LABEL/IMAGE.jpg")
    return paths


def list_unlabelled(source: Path) -> list[PurePosixPath]:
    """All images at any depth, in a stable order; raises as `list_split` does."""
    if paths := _list_images(source):
        return paths
    raise ModelError(f"{source}: no images; expected files such as IMAGE.jpg")


def check_labels(source: Path) -> list[str]:
    """The labels in order; raises `ModelError` unless both splits have the same, at least two."""
    train, test = (
        {path.parent.name for path in list_split(source, split)} for split in ("train", "test")
    )
    if different := sorted(train ^ test):
        raise ModelError(
            f"{source}: train and test have different labels: {', '.join(different[:5])}"
        )
    if len(train) < 2:
        raise ModelError(f"{source}: the only label is {min(train)}; expected two or more")
    return sorted(train)


def _files_below(directory: Path) -> Iterator[PurePosixPath]:
    """All files, as paths relative to ``directory``; raises `OSError` if a folder is unreadable.

    Hidden folders are skipped, and so is ``lost+found``, which only root may read.
    """
    for place, folders, names in os.walk(directory, onerror=_raise):
        folders[:] = [name for name in folders if name[0] != "." and name != "lost+found"]
        for name in names:
            yield PurePosixPath((Path(place) / name).relative_to(directory).as_posix())


def _raise(error: OSError) -> NoReturn:
    raise error


def _list_images(source: Path) -> list[PurePosixPath]:
    """All images, in a stable order; raises `ModelError` if ``source`` cannot be read."""
    try:
        if source.is_dir():
            names = [*_files_below(source)]
        else:
            with _open_tar(source) as tar:
                names = [PurePosixPath(member.name) for member in tar if member.isfile()]
    except OSError as error:
        raise ModelError(f"{error.filename or source}: cannot be read: {error.strerror}") from error
    return sorted(
        name
        for name in names
        if name.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") and part != "." for part in name.parts)
    )


def read_images(
    source: Path, wanted: Collection[PurePosixPath]
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The bytes of each wanted image, in the order in which they are stored."""
    if source.is_dir():
        for path in wanted:
            yield path, (source / path).read_bytes()
        return
    wanted = set(wanted)
    with _open_tar(source) as tar:
        for member in tar:
            if (path := PurePosixPath(member.name)) in wanted:
                file = tar.extractfile(member)
                assert file is not None
                yield path, file.read()


def _open_tar(source: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(source)
    except tarfile.TarError as error:
        raise ModelError(f"{source}: neither a directory nor a readable tar archive") from error
    except OSError as error:
        raise ModelError(f"{source}: cannot be read: {error.strerror or error}") from error


def _choose(paths: list[PurePosixPath], split: str) -> list[PurePosixPath]:
    """The paths of one split, in a stable order."""
    folders = {"train"} if split == "train" else {"test", "val"}
    if any(set(path.parts[:-2]) & {"train", "test", "val"} for path in paths):
        return [path for path in paths if set(path.parts[:-2]) & folders]
    if split == "any":
        return paths
    by_label: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        by_label.setdefault(path.parent.name, []).append(path)
    chosen = []
    for label, members in by_label.items():
        chance = random.Random(label)  # noqa: S311, not for secrets
        held_out = set(chance.sample(members, max(1, int(HELD_OUT * len(members)))))
        chosen += [path for path in members if (path in held_out) == (split == "test")]
    return chosen
