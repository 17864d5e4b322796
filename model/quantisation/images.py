"""The images with which a checkpoint is quantised."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from model.errors import ModelError
from model.evaluation.dataset import list_images, list_split, load_images
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
    paths = sorted(list_split(source, "any") if labelled else list_images(source), key=_digest)
    if len(paths) < LEAST:
        raise ModelError(
            f"{source}: {len(paths)} images; at least {LEAST} are needed, better "
            f"{CALIBRATION + MEASURED:,}"
        )
    if labelled:
        _check_labels(spec, source, paths)
    calibration = paths[:CALIBRATION]
    others = paths[CALIBRATION : CALIBRATION + MEASURED]
    if len(others) < LEAST:
        others = calibration + others
    chosen = list(dict.fromkeys(calibration + others))
    found = load_images(source, chosen, spec.preprocess, "decode images", quiet=quiet)
    pixels = found.pixels.numpy()
    classes = np.array(match_classes(spec, source, others)) if labelled else None
    count = len(calibration)
    digest = hashlib.sha256("\n".join(map(str, calibration)).encode("utf-8", "surrogateescape"))
    digest.update(pixels[:count].tobytes())
    return Images(pixels[:count], pixels[-len(others) :], classes, digest.hexdigest())


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
