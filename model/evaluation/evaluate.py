"""Evaluating a checkpoint: accuracy overall and per class, and calibration of its scores."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.drift import Figures, figures_of
from model.errors import ImageError, ModelError
from model.evaluation.dataset import list_split, read_images
from model.evaluation.reliability import reliability
from model.images.preprocess import prepare
from model.inference.classifier import Classifier
from model.scores import Logits, Steps, Temperatures, best_classes, show_temperatures
from model.spec import ModelSpec

SHOWN = 20
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Report:
    """Figures over a set of images.

    Attributes:
        temperature, gap_temperatures: see `ModelSpec`.
        calibration_error: see `Reliability.error`.
        brier_score: the mean over images of the squared distance between the scores of all classes
            and 1 for the true class, 0 for the others.
        by_class: top-1 accuracy of each class that has images.
        unreadable: a line for each image that could not be decoded; these are not counted.
    """

    images: int
    top_1: float
    top_5: float
    temperature: float
    gap_temperatures: Steps
    negative_log_likelihood: float
    calibration_error: float
    brier_score: float
    by_class: dict[str, float]
    unreadable: list[str]

    @property
    def shown_temperatures(self) -> str:
        """See `show_temperatures`."""
        return show_temperatures((self.temperature, self.gap_temperatures))

    def __str__(self) -> str:
        """A table; with many classes, only those with the lowest accuracy."""
        worst = sorted(self.by_class.items(), key=lambda row: row[1])[:SHOWN]
        rows = worst if len(self.by_class) > SHOWN else self.by_class.items()
        return "\n".join(
            (
                f"{self.images} images: top-1 {self.top_1:.2%}, top-5 {self.top_5:.2%}",
                f"temperature {self.shown_temperatures}",
                f"negative log-likelihood {self.negative_log_likelihood:.4f}",
                f"calibration error {self.calibration_error:.4f}",
                f"Brier score {self.brier_score:.4f}",
                *(f"  {label:<24} {accuracy:.2%}" for label, accuracy in rows),
            )
        )


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The network's outputs for ``n`` images.

    Attributes:
        classes: the true classes ``(n,)``.
        logits: of all classes, ``(n, classes)``.
        figures: what the metrics of the server would count.
        unreadable: a line for each further image, which could not be decoded.
    """

    classes: NDArray[np.int64]
    logits: Logits
    unreadable: tuple[str, ...] = ()
    figures: tuple[Figures, ...] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """The results of ``n`` images.

    Attributes:
        classes: the true classes ``(n,)``.
        ranks: rank of the true class, from 0, ``(n,)``.
        best, true: scores of the best class and of the true class, ``(n,)``.
        squares: sums of the squared scores of all classes, ``(n,)``.
    """

    classes: NDArray[np.int64]
    ranks: NDArray[np.int64]
    best: NDArray[np.float64]
    true: NDArray[np.float64]
    squares: NDArray[np.float64]
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
    spec = classifier.spec
    results = classify(
        classifier,
        source,
        list_split(source, split),
        lambda answers: rank(answers, spec.temperatures),
        workers=workers,
        batch_size=batch_size,
        quiet=quiet,
    )
    return report([*results], spec)


def classify(
    classifier: Classifier,
    source: Path,
    paths: Sequence[PurePosixPath],
    use: Callable[[Answers], T],
    *,
    labelled: bool = True,
    workers: int = 1,
    batch_size: int = 16,
    quiet: bool = False,
) -> Iterator[T]:
    """Classify images in batches.

    Args:
        paths: the images in ``source``.
        labelled: whether each is in a folder named after its label or synset; otherwise the true
            classes are 0.
        use: called in the threads with the answers of each batch; its results are returned.
        workers: see `evaluate`.

    Raises:
        ModelError: a folder matches none of the classes.
    """
    known = match_classes(classifier.spec, source, paths) if labelled else [0] * len(paths)
    classes = dict(zip(paths, known, strict=True))

    def run(images: Sequence[tuple[PurePosixPath, bytes]]) -> tuple[int, T]:
        named = [(path, data, classes[path]) for path, data in images]
        return len(named), use(classify_batch(classifier, named))

    images = read_images(source, paths)
    batches = iter(lambda: list(islice(images, batch_size)), [])
    bar = tqdm(total=len(paths), desc="evaluate", unit="image", disable=quiet)
    with ThreadPoolExecutor(workers, initializer=classifier.backend.open) as pool, bar:
        for count, result in _run_ahead(pool, run, batches, 2 * workers):
            yield result
            bar.update(count)


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


def classify_batch(
    classifier: Classifier, images: Sequence[tuple[PurePosixPath, bytes, int]]
) -> Answers:
    """Decode and classify images, given as ``(path, bytes, true class)``."""
    spec = classifier.spec
    items, classes, unreadable = [], [], []
    for path, data, true_class in images:
        try:
            items.append(prepare(data, spec.preprocess, max_pixels=classifier.max_pixels))
        except ImageError as error:
            unreadable.append(f"{path}: {error}")
        else:
            classes.append(true_class)
    truth = np.array(classes, np.int64)
    if not items:
        logits = np.empty((0, spec.num_classes), np.float32)
        return Answers(truth, logits, tuple(unreadable))
    logits = classifier.logits([item.seen for item in items])
    figures = (
        figures_of(*item, row, spec.temperatures) for item, row in zip(items, logits, strict=True)
    )
    return Answers(truth, logits, tuple(unreadable), tuple(figures))


def rank(answers: Answers, temperatures: Temperatures) -> Results:
    """The results of some images with the scores at these temperatures."""
    truth = answers.classes
    found, ids = best_classes(answers.logits, answers.logits.shape[1], temperatures)
    scores = found.astype(float)
    ranks = (ids == truth[:, None]).argmax(1)
    true = np.take_along_axis(scores, ranks[:, None], 1)[:, 0]
    squares = (scores**2).sum(1)
    return Results(truth, ranks, scores[:, 0], true, squares, answers.unreadable)


def report(results: Sequence[Results], spec: ModelSpec) -> Report:
    """Combine the results of all batches."""
    classes, ranks, best, true, squares = (
        np.concatenate([getattr(part, name) for part in results])
        for name in ("classes", "ranks", "best", "true", "squares")
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
        temperature=spec.temperature,
        gap_temperatures=spec.gap_temperatures,
        negative_log_likelihood=-np.log(np.maximum(true, smallest)).mean().item(),
        calibration_error=reliability(best, right).error,
        brier_score=(squares - 2 * true + 1).mean().item(),
        by_class={spec.labels[i]: right[classes == i].mean().item() for i in np.unique(classes)},
        unreadable=unreadable,
    )


def _run_ahead(
    pool: ThreadPoolExecutor, run: Callable[[U], T], batches: Iterable[U], ahead: int
) -> Iterator[T]:
    """Results in order, with no more than ``ahead`` batches in memory."""
    waiting: deque[Future[T]] = deque()
    for batch in batches:
        waiting.append(pool.submit(run, batch))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
