"""Calibrating a checkpoint: fitting the temperature of its scores, and storing it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from model.errors import ModelError
from model.evaluation.dataset import list_split
from model.evaluation.evaluate import Answers, Report, classify, rank, report
from model.evaluation.holdout import held_out
from model.evaluation.reliability import BINS, Reliability, reliability
from model.evaluation.temperature import fit_temperature, fit_temperatures
from model.inference.classifier import Classifier
from model.spec import MAX_TEMPERATURE, MIN_TEMPERATURE, ModelSpec

MIN_IMAGES = 100
FIGURES = {
    "negative log-likelihood": "negative_log_likelihood",
    f"calibration error, {BINS} bins": "calibration_error",
    "Brier score": "brier_score",
}


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Figures at a temperature, and their reliability diagram."""

    report: Report
    bins: Reliability


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Fitted temperatures, and figures over the same images before and after.

    Attributes:
        spec: that of the model, with the temperatures and a line of provenance.
        classes: the number of classes that have images.
    """

    spec: ModelSpec
    classes: int
    before: Measured
    after: Measured

    def __str__(self) -> str:
        """A table."""
        before, after = self.before.report, self.after.report
        of = f"{self.classes} of {self.spec.num_classes} classes"
        rows = [f"{after.images} images of {of}: top-1 {after.top_1:.2%}"]
        rows.append(f"{'':<26}{'before':>8}{'after':>9}")
        for title, name in FIGURES.items():
            old, new = getattr(before, name), getattr(after, name)
            rows.append(f"{title:<26}{old:>8.4f}{new:>9.4f}")
        rows.append(f"temperature before: {before.shown_temperatures}")
        rows.append(f"temperature after: {after.shown_temperatures}")
        return "\n".join(rows)

    @property
    def panels(self) -> tuple[tuple[str, Reliability], ...]:
        """Those of a reliability diagram, with their titles."""
        return ("before", self.before.bins), ("after", self.after.bins)

    def as_json(self) -> Mapping[str, Any]:
        """The table, and lines for images that could not be decoded, as a JSON object."""
        after = self.after.report
        names = ("temperature", "gap_temperatures", *FIGURES.values())
        figures = {
            when: {name: getattr(measured.report, name) for name in names}
            for when, measured in (("before", self.before), ("after", self.after))
        }
        counts = {"images": after.images, "classes": self.classes, "top_1": after.top_1}
        return {**counts, **figures, "unreadable": after.unreadable}


def choose_images(source: Path, holdout: int = 0) -> list[PurePosixPath]:
    """The images to calibrate on.

    Args:
        holdout: choose the training images that a run with this ``--holdout`` kept out; 0 for the
            test images, or for all images if the folders do not separate train from test.

    Raises:
        ModelError: there are too few images, or they are all of one class.
    """
    paths = list_split(source, "train" if holdout else "any")
    paths = held_out(paths, holdout) if holdout else paths
    if len(paths) < MIN_IMAGES:
        raise ModelError(
            f"{source}: only {len(paths)} images; expected at least {MIN_IMAGES}, and better "
            "thousands, to fit a temperature"
        )
    if len(labels := {path.parent.name for path in paths}) == 1:
        raise ModelError(
            f"{source}: all {len(paths)} images are in folder {min(labels)!r}; "
            "expected images of two classes or more"
        )
    return paths


def calibrate(
    classifier: Classifier,
    source: Path,
    paths: Sequence[PurePosixPath],
    *,
    workers: int = 1,
    batch_size: int = 16,
    quiet: bool = False,
) -> Calibration:
    """Fit the temperature of a model to labelled images, from its logits.

    Args:
        paths: see `choose_images`.
        workers: see `evaluate`.

    Raises:
        ModelError: a folder matches none of the classes, or no temperature fits the images.
    """
    parts = [
        *classify(
            classifier,
            source,
            paths,
            lambda answers: answers,
            workers=workers,
            batch_size=batch_size,
            quiet=quiet,
        )
    ]
    before = _measure(parts, classifier.spec)
    images = before.report.images
    if images < MIN_IMAGES:
        raise ModelError(
            f"{source}: only {images} of {len(paths)} images could be read; expected at least "
            f"{MIN_IMAGES} ({before.report.unreadable[0]})"
        )
    classes = np.concatenate([part.classes for part in parts])
    logits = np.concatenate([part.logits for part in parts])
    best = fit_temperature(logits, classes)
    _check(source, best, before.report)
    first, later = fit_temperatures(logits, classes, best)
    spec = replace(classifier.spec, temperature=first, gap_temperatures=later)
    after = _measure(parts, spec)
    text = (
        f"temperature from {images} images: calibration error {before.report.calibration_error:.4f}"
        f" before, {after.report.calibration_error:.4f} after"
    )
    spec = replace(spec, provenance={**spec.provenance, "calibration": text})
    return Calibration(spec, len(np.unique(classes)), before, after)


def _measure(parts: Sequence[Answers], spec: ModelSpec) -> Measured:
    results = [rank(part, spec.temperatures) for part in parts]
    best, ranks = (
        np.concatenate([getattr(part, name) for part in results]) for name in ("best", "ranks")
    )
    return Measured(report(results, spec), reliability(best, ranks == 0))


def _check(source: Path, temperature: float, before: Report) -> None:
    """Refuse a temperature at a bound: scores would be 1, or the same for all classes."""
    if before.top_1 == 1:
        raise ModelError(
            f"{source}: all {before.images} images are classified right, so that the best scores "
            "are 1 and no temperature fits; add images that the model gets wrong"
        )
    if temperature <= MIN_TEMPERATURE:
        raise ModelError(f"{source}: no temperature fits: the best one is below {MIN_TEMPERATURE}")
    if temperature >= MAX_TEMPERATURE:
        raise ModelError(
            f"{source}: no temperature fits: the best one is above {MAX_TEMPERATURE:g}, because "
            f"the scores do not show which answers are right (top-1 {before.top_1:.2%}); check "
            "that each folder is named after the class of its images"
        )
