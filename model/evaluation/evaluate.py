"""Evaluating a checkpoint: accuracy overall and per class, and calibration of its scores."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.errors import ImageError, ModelError
from model.evaluation.dataset import list_split, read_images
from model.inference.classifier import Classifier
from model.scores import best_classes
from model.spec import ModelSpec

BINS = 15
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Report:
    """Figures over a set of images.

    Attributes:
        calibration_error: expected calibration error (Guo et al. 2017): the mean distance between
            score and accuracy over bins of the score, weighted by their share of images.
        by_class: top-1 accuracy of each class that has images.
        unreadable: a line for each image that could not be decoded; these are not counted.
    """

    images: int
    top_1: float
    top_5: float
    negative_log_likelihood: float
    calibration_error: float
    by_class: dict[str, float]
    unreadable: list[str]

    def __str__(self) -> str:
        """A table; with many classes, only those with the lowest accuracy."""
        worst = sorted(self.by_class.items(), key=lambda row: row[1])[:SHOWN]
        rows = worst if len(self.by_class) > SHOWN else self.by_class.items()
        return "\n".join(
            (
                f"{self.images} images: top-1 {self.top_1:.2%}, top-5 {self.top_5:.2%}",
                f"negative log-likelihood {self.negative_log_likelihood:.4f}",
                f"calibration error {self.calibration_error:.4f}",
                *(f"  {label:<24} {accuracy:.2%}" for label, accuracy in rows),
            )
        )


@dataclass(frozen=True, slots=True)
class Results:
    """The results of ``n`` images.

    Attributes:
        classes: the true classes ``(n,)``.
        ranks: rank of the true class, from 0, ``(n,)``. best, true: scores of the best class and of
            the true class, ``(n,)``.
    """

    classes: NDArray[np.int64]
    ranks: NDArray[np.int64]
    best: NDArray[np.float64]
    true: NDArray[np.float64]
    unreadable: tuple[str, ...] = ()


def evaluate(
    classifier: Classifier,
    source: Path,
    *,
    split: str = "any",
    workers: int = 1,
    batch_size: int = 16,
    quiet: bool = False,
) -> Report:
    """Evaluate on labelled images, with the server's own preprocessing.

    Args:
        source, split: see `list_split`. Each folder is named after a label or its synset.
        workers: number of threads; each decodes and classifies whole batches.

    Raises:
        ModelError: there are no images, or a folder matches none of the classes.
    """
    paths = list_split(source, split)
    classes = dict(zip(paths, match_classes(classifier.spec, source, paths), strict=True))

    def evaluate_images(images: Sequence[tuple[PurePosixPath, bytes]]) -> Results:
        return evaluate_batch(classifier, [(path, data, classes[path]) for path, data in images])

    images = read_images(source, paths)
    batches = iter(lambda: list(islice(images, batch_size)), [])
    found = []
    bar = tqdm(total=len(paths), desc="evaluate", unit="image", disable=quiet)
    with ThreadPoolExecutor(workers, initializer=classifier.backend.open) as pool, bar:
        for results in _run_ahead(pool, evaluate_images, batches, 2 * workers):
            found.append(results)
            bar.update(len(results.classes) + len(results.unreadable))
    return report(found, classifier.spec.labels)


def match_classes(spec: ModelSpec, source: Path, paths: Iterable[PurePosixPath]) -> list[int]:
    """The class of each image, by the name of its folder."""
    known = {name: i for i, name in enumerate(spec.labels)}
    known |= {synset: i for i, synset in enumerate(spec.synsets)}
    found = []
    for path in paths:
        if path.parent.name not in known:
            some = ", ".join(spec.labels[:5])
            raise ModelError(
                f"{source}: folder {path.parent.name!r} matches none of the {spec.num_classes} "
                f"classes of {spec.name}; expected a label ({some}, …) or a synset"
            )
        found.append(known[path.parent.name])
    return found


def evaluate_batch(
    classifier: Classifier, images: Sequence[tuple[PurePosixPath, bytes, int]]
) -> Results:
    """Decode and classify images, given as ``(path, bytes, true class)``."""
    items, classes, unreadable = [], [], []
    for path, data, true_class in images:
        try:
            items.append(classifier.preprocess(data))
        except ImageError as error:
            unreadable.append(f"{path}: {error}")
        else:
            classes.append(true_class)
    truth = np.array(classes, np.int64)
    if not items:
        return Results(truth, truth, np.empty(0), np.empty(0), tuple(unreadable))
    logits = classifier.backend.logits(np.stack(items))
    if not np.isfinite(logits).all():
        raise ModelError("the network's output is NaN or infinite")
    scores, ids = best_classes(logits, classifier.spec.num_classes)
    ranks = (ids == truth[:, None]).argmax(1)
    true = np.take_along_axis(scores, ranks[:, None], 1)[:, 0]
    return Results(truth, ranks, scores[:, 0].astype(float), true.astype(float), tuple(unreadable))


def report(results: Sequence[Results], labels: Sequence[str]) -> Report:
    """Combine the results of all batches."""
    classes, ranks, best, true = (
        np.concatenate([getattr(part, name) for part in results])
        for name in ("classes", "ranks", "best", "true")
    )
    unreadable = [line for part in results for line in part.unreadable]
    if not len(classes):
        raise ModelError(f"none of the images could be read: {unreadable[0]}")
    right = ranks == 0
    smallest = np.finfo(np.float32).tiny
    return Report(
        images=len(classes),
        top_1=right.mean().item(),
        top_5=(ranks < 5).mean().item(),
        negative_log_likelihood=-np.log(np.maximum(true, smallest)).mean().item(),
        calibration_error=calibration_error(best, right),
        by_class={labels[i]: right[classes == i].mean().item() for i in np.unique(classes)},
        unreadable=unreadable,
    )


def calibration_error(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Expected calibration error of scores ``(n,)`` over bins of equal width."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    distance = np.bincount(bins, weights=scores - right, minlength=BINS)
    return np.abs(distance).sum().item() / len(scores)


def _run_ahead(
    pool: ThreadPoolExecutor,
    evaluate_images: Callable[[Sequence[tuple[PurePosixPath, bytes]]], Results],
    batches: Iterable[Sequence[tuple[PurePosixPath, bytes]]],
    ahead: int,
) -> Iterator[Results]:
    """Results in order, with no more than ``ahead`` batches in memory."""
    waiting: deque[Future[Results]] = deque()
    for batch in batches:
        waiting.append(pool.submit(evaluate_images, batch))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
