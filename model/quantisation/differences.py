"""How the answers of a quantised network differ from those of the original."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.backends.base import Backend
from model.errors import ModelError
from model.images.preprocess import Pixels
from model.scores import ONE, Logits, Temperatures, softmax

DIGITS = 6  # of percentage points: 0.5 of 1,000 images is 0.5, not 0.5000000000000004

Classes = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Differences:
    """Differences between two networks over the same images; shares are from 0 to 1.

    Attributes:
        agreement: share of images with the same best class. top_5: share of images whose best class
            is among the five best of the quantised network.
        mean_change, greatest_change: of a probability.
        accuracy_before, accuracy_after: top-1 accuracy, if the images have labels.
    """

    images: int
    agreement: float
    top_5: float
    mean_change: float
    greatest_change: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    @property
    def drop(self) -> float:
        """The loss of accuracy, or of agreement without labels, in percentage points."""
        if self.accuracy_before is None or self.accuracy_after is None:
            return round(100 * (1 - self.agreement), DIGITS)
        return round(100 * (self.accuracy_before - self.accuracy_after), DIGITS)


def compare(
    before: Logits, after: Logits, classes: Classes | None, temperatures: Temperatures = ONE
) -> Differences:
    """Compare logits ``(n, classes)`` of the original network and of the quantised one.

    Args:
        classes: the true classes ``(n,)``, if known.
        temperatures: of the probabilities; see `ModelSpec`.
    """
    change = np.abs(softmax(after, temperatures) - softmax(before, temperatures))
    best = before.argmax(1)
    ranks = (after > np.take_along_axis(after, best[:, None], 1)).sum(1)
    return Differences(
        images=len(best),
        agreement=(after.argmax(1) == best).mean().item(),
        top_5=(ranks < 5).mean().item(),
        mean_change=change.mean().item(),
        greatest_change=change.max().item(),
        accuracy_before=None if classes is None else (best == classes).mean().item(),
        accuracy_after=None if classes is None else (after.argmax(1) == classes).mean().item(),
    )


def all_logits(backend: Backend, pixels: Pixels) -> Logits:
    """Logits of any number of images, in batches of one size; a padded batch takes no compilation.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    backend.open()
    size = min(backend.largest_batch, len(pixels))
    padded = np.concatenate((pixels, pixels[: -len(pixels) % size]))
    parts = [backend.logits(padded[i : i + size]) for i in range(0, len(padded), size)]
    logits: Logits = np.concatenate(parts)[: len(pixels)]
    if not np.isfinite(logits).all():
        raise ModelError("the network's output is NaN or infinite")
    return logits
