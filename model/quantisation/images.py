"""The images with which a checkpoint is quantised."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from model.errors import ModelError
from model.evaluation.dataset import list_unlabelled, load_images
from model.evaluation.evaluate import match_classes
from model.images.preprocess import Pixels
from model.quantisation.differences import Classes
from model.spec import ModelSpec

CALIBRATION = 300
MEASURED = 1000
LEAST = 100


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Decoded images ``(n, h, w, 3)``.

    Attributes:
        calibration: images for calibration.
        measured: images on which the networks are compared: others, or the same if there are few.
        classes: the true classes of ``measured``, if known.
        sha256: digest of the names and pixels for calibration.
    """

    calibration: Pixels
    measured: Pixels
    classes: Classes | None
    sha256: str


def read_images(spec: ModelSpec, source: Path, *, labelled: bool, quiet: bool) -> Images:
    """Read a reproducible choice of the images, with the server's own preprocessing.

    Raises:
        ModelError: there are too few, one does not decode, or the labels do not fit.
    """
    found = list_unlabelled(source)
    paths = sorted((path for path in found if len(path.parts) > labelled), key=_digest)
    if not paths:
        raise ModelError(
            f"{source}: its {len(found)} images are in no folder; expected files such as "
            "LABEL/IMAGE.jpg"
        )
    if len(paths) < LEAST:
        raise ModelError(
            f"{source}: {len(paths)} images; at least {LEAST} are needed, better "
            f"{CALIBRATION + MEASURED:,}"
        )
    if labelled:
        _check_labels(spec, source, paths)
    calibration, others = divide(paths)
    chosen = list(dict.fromkeys(calibration + others))
    dataset = load_images(source, chosen, spec.preprocess, "decode images", quiet=quiet)
    pixels = dataset.pixels.numpy()
    classes = np.array(match_classes(spec, source, others)) if labelled else None
    count = len(calibration)
    digest = hashlib.sha256("\n".join(map(str, calibration)).encode("utf-8", "surrogateescape"))
    digest.update(pixels[:count].tobytes())
    return Images(pixels[:count], pixels[-len(others) :], classes, digest.hexdigest())


def divide(paths: Sequence[PurePosixPath]) -> tuple[list[PurePosixPath], list[PurePosixPath]]:
    """The images for calibration, and those to measure: others, unless there are too few.

    If folders separate train from test (or val), they are taken from there.
    """
    train = [path for path in paths if "train" in path.parts[:-1]]
    test = [path for path in paths if {"test", "val"} & set(path.parts[:-1])]
    if len(train) >= LEAST and len(test) >= LEAST:
        return train[:CALIBRATION], test[:MEASURED]
    calibration, others = [*paths[:CALIBRATION]], [*paths[CALIBRATION : CALIBRATION + MEASURED]]
    return calibration, others if len(others) >= LEAST else calibration + others


def _check_labels(spec: ModelSpec, source: Path, paths: Sequence[PurePosixPath]) -> None:
    classes = set(match_classes(spec, source, paths))
    if len(classes) == 1 < spec.num_classes:
        raise ModelError(
            f"{source}: every image is of class {spec.labels[classes.pop()]!r}; expected images of "
            "several classes"
        )


def _digest(path: PurePosixPath) -> bytes:
    """Orders images as if by chance, but always in the same way."""
    return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).digest()
