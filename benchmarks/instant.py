"""Engines and workers of a service whose model answers at once, for `app.processes.supervisor`.

Engines load the checkpoint of the settings, but replace its forward pass. With
``XCIT_INSTANT_PREPARE=1``, workers replace decoding too, and what is left is the web side.
"""

import os
import sys
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from app.config.settings import Settings
from app.processes.roles import run_role
from model.images.preprocess import AnyPixels, Prepared
from model.scores import Logits

PREPARE = "XCIT_INSTANT_PREPARE"


class InstantBackend:
    """Answers every batch with zeros."""

    name, precision, device = "instant", "float32", "cpu"
    streams = threads = 1
    largest_batch = 16
    pads = False

    def __init__(self, classes: int) -> None:
        self._logits: Logits = np.zeros((self.largest_batch, classes), np.float32)

    def open(self) -> None: ...

    def keep(self, sizes: Collection[int]) -> None: ...

    def kernels(self, size: int) -> None: ...

    def logits(self, pixels: AnyPixels) -> Logits:
        return self._logits[: len(pixels)]


def load(settings: Settings, cores: int) -> Any:
    """The classifier of the settings with an instant forward pass; see `load_for_engine`."""
    from app.loading import SlotClassifier, load_served

    classifier = load_served(settings, cores)
    classifier.backend = InstantBackend(classifier.spec.num_classes)
    return SlotClassifier(classifier)


def prepare(spec: Mapping[str, Any], max_pixels: int) -> Any:
    """The preparer of workers; see `app.preparation.RemotePreparer`."""
    from app.preparation import RemotePreparer

    preparer = RemotePreparer(spec, max_pixels)
    if os.environ.get(PREPARE):
        side = spec["preprocess"]["image_size"]
        item = Prepared(np.zeros((side, side, 3), np.uint8), side * side)
        preparer.preprocess = lambda image: item  # type: ignore[method-assign]
    return preparer


if __name__ == "__main__":
    run_role(sys.argv[1:], lambda: load, lambda: prepare)
