"""How often answers are right for each score: bins and calibration error."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Images in bins of equal width by their best score.

    Attributes:
        images: number in each bin, ``(BINS,)``.
        scores, right: mean score, and share of right answers, of each bin; 0 for an empty one.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error (Guo et al. 2017): the mean distance between score and
        share of right answers, weighted by images.
        """
        distance = np.abs(self.scores - self.right) * self.images
        return distance.sum().item() / self.images.sum().item()


def reliability(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> Reliability:
    """Put the best scores ``(n,)`` into bins."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    images = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights=values, minlength=BINS) for values in (scores, right))
    return Reliability(images, *(total / np.maximum(images, 1) for total in sums))
