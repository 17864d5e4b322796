"""A part of the training images kept out of training, to validate without the test images.

The choice depends only on class and file name: the images of each class whose ``CLASS/NAME`` has
the smallest SHA-256 digests. It is therefore reproducible from the files, in any order, from a
folder or an archive.
"""

import hashlib
from collections.abc import Sequence
from pathlib import PurePosixPath

from model.errors import ModelError


def held_out(paths: Sequence[PurePosixPath], count: int) -> list[PurePosixPath]:
    """The images to hold out, in the order of ``paths``.

    Args:
        paths: the training images, each in a folder named after its class.
        count: how many images to hold out, divided equally among the classes; the first classes in
            alphabetical order get one more where ``count`` is not a multiple of their number.

    Raises:
        ModelError: a class would have no image held out, or none left for training.
    """
    by_class: dict[str, list[PurePosixPath]] = {}
    for path in paths:
        by_class.setdefault(path.parent.name, []).append(path)
    smallest = min(by_class, key=lambda label: len(by_class[label]))
    most = len(by_class) * (len(by_class[smallest]) - 1)
    if not len(by_class) <= count <= most:
        raise ModelError(
            f"holdout is {count}; it must be 0, or from {len(by_class)} to {most}: each of the "
            f"{len(by_class)} classes needs at least one image held out and one left for training "
            f"({smallest} has {len(by_class[smallest])})"
        )
    share, more = divmod(count, len(by_class))
    chosen: set[PurePosixPath] = set()
    for place, label in enumerate(sorted(by_class)):
        chosen |= set(sorted(by_class[label], key=_digest)[: share + (place < more)])
    return [path for path in paths if path in chosen]


def _digest(path: PurePosixPath) -> tuple[str, PurePosixPath]:
    name = f"{path.parent.name}/{path.name}"
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest(), path
