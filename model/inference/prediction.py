"""The answer to an image: its best classes with label and score."""

from collections.abc import Sequence
from dataclasses import dataclass

from model.scores import Logits, Scores, best_classes, softmax
from model.spec import ModelSpec

SCORE_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of an answer; ``score`` is a softmax probability of `SCORE_DIGITS` digits.

    ``synset`` is WordNet's id of the class, where it is known.
    """

    class_id: int
    label: str
    score: float
    synset: str | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer to one image.

    Attributes:
        predictions: the best classes, best first.
        logits: of every class ``(classes,)``.
    """

    predictions: Sequence[Prediction]
    logits: Logits

    @property
    def probabilities(self) -> Scores:
        """Of every class ``(classes,)``."""
        return softmax(self.logits)


def label(logits: Logits, top_k: int, spec: ModelSpec) -> list[Classification]:
    """The classification of each row of logits ``(images, classes)``."""
    scores, class_ids = best_classes(logits, top_k)
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
    return [*map(Classification, predictions, logits)]
