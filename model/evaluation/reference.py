"""The distributions of predictions on a validation folder; see `model.drift`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from model.drift import Figures, Reference, least_images, make_reference
from model.errors import ModelError
from model.evaluation.dataset import list_split, list_unlabelled
from model.evaluation.evaluate import Answers, Report, Results, classify, rank, report
from model.evaluation.holdout import held_out
from model.inference.classifier import Classifier


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The results of a model on a folder of images.

    Attributes:
        report: ``None`` if the images are not labelled.
        seen: the distributions over the images.
        unreadable: a line for each further image, which could not be decoded.
    """

    report: Report | None
    seen: Reference
    unreadable: Sequence[str]


def choose_paths(source: Path, holdout: int = 0, *, labelled: bool = True) -> list[PurePosixPath]:
    """The images to evaluate on; raises `ModelError` without any.

    Args:
        holdout: choose the training images that a run with this ``--holdout`` kept out; 0 for the
            test images, or for all images if the folders do not separate train from test.
        labelled: otherwise all images at any depth are chosen.
    """
    if not labelled:
        return list_unlabelled(source)
    if holdout:
        return held_out(list_split(source, "train"), holdout)
    return list_split(source, "any")


def evaluate_images(
    classifier: Classifier,
    source: Path,
    paths: Sequence[PurePosixPath],
    *,
    labelled: bool = True,
    workers: int = 1,
    batch_size: int = 16,
    quiet: bool = False,
) -> Evaluation:
    """Classify images as the server would.

    Args:
        paths: see `choose_paths`.
        labelled, workers: see `classify`.

    Raises:
        ModelError: a folder matches none of the classes, or no image can be read.
    """
    spec = classifier.spec

    def use(answers: Answers) -> tuple[Results | None, tuple[Figures, ...], tuple[str, ...]]:
        results = rank(answers, spec.temperatures) if labelled else None
        return results, answers.figures, answers.unreadable

    parts = [
        *classify(
            classifier,
            source,
            paths,
            use,
            labelled=labelled,
            workers=workers,
            batch_size=batch_size,
            quiet=quiet,
        )
    ]
    figures = [each for _, found, _ in parts for each in found]
    unreadable = [line for _, _, lines in parts for line in lines]
    if not figures:
        raise ModelError(f"none of the images could be read: {unreadable[0]}")
    ranked = [results for results, _, _ in parts if results]
    return Evaluation(
        report(ranked, spec) if labelled else None,
        make_reference(figures, spec.num_classes, spec.temperatures),
        unreadable,
    )


def check_reference(source: Path, images: int, classes: int) -> None:
    """Raise `ModelError` for a reference of too few images."""
    least = least_images(classes)
    if images < least:
        raise ModelError(
            f"{source}: only {images} images; a reference for {classes} classes needs at least "
            f"{least}, and better thousands"
        )
