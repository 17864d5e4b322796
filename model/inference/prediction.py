"""Predictions: the best classes of an image, with labels and scores."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.scores import ONE, Logits, Scores, Temperatures, best_classes, softmax
from model.spec import ModelSpec

SCORE_DIGITS = 6

Embedding = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of an answer; ``score`` is its probability with `SCORE_DIGITS` digits.

    ``synset`` is the WordNet id of the class, where it is known.
    """

    class_id: int
    label: str
    score: float
    synset: str | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer for one image.

    Attributes:
        predictions: the best classes, best first.
        logits: the logits of all classes, ``(classes,)``.
        temperatures: those of the scores; see `ModelSpec`.
        embedding: the class token before the classifier, ``(dim,)``, if it was asked for.
    """

    predictions: Sequence[Prediction]
    logits: Logits
    temperatures: Temperatures = ONE
    embedding: Embedding | None = None

    @property
    def probabilities(self) -> Scores:
        """The probabilities of all classes, ``(classes,)``."""
        return softmax(self.logits, self.temperatures)


def label_and_embed(outputs: Logits, top_k: int, spec: ModelSpec) -> list[Classification]:
    """Classify each row of logits and embedding, ``(images, classes + dim)``."""
    classes = spec.num_classes
    logits, embeddings = outputs[:, :classes], outputs[:, classes:]
    found = label(logits, top_k, spec) if classes else [Classification([], row) for row in logits]
    return [replace(each, embedding=row) for each, row in zip(found, embeddings, strict=True)]


def label(logits: Logits, top_k: int, spec: ModelSpec) -> list[Classification]:
    """Classify each row of logits ``(images, classes)``."""
    scores, class_ids = best_classes(logits, top_k, spec.temperatures)
    synsets = spec.synsets or (None,) * len(spec.labels)
    predictions = [
        [
            Prediction(
                class_id,
                spec.labels[class_id],
                float(f"{score:.{SCORE_DIGITS}g}"),
                synsets[class_id],
            )
            for class_id, score in zip(row_ids, row_scores, strict=True)
        ]
        for row_ids, row_scores in zip(class_ids.tolist(), scores.tolist(), strict=True)
    ]
    return [
        Classification(rows, row, spec.temperatures)
        for rows, row in zip(predictions, logits, strict=True)
    ]
