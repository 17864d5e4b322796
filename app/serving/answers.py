"""Answers to images."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.serving.classifier import Classification, ModelInfo, Prediction
from app.serving.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said of an image, its best classes, and which model says so."""

    model: ModelInfo
    predictions: Sequence[Prediction]
    classification: Classification


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of images that came in together, in order, and which model was asked."""

    model: ModelInfo
    outcomes: Sequence[Answer | ServiceError]

    def all(self) -> list[Answer]:
        """An answer to each; raises the first error there is."""
        answers = []
        for number, outcome in enumerate(self.outcomes):
            if isinstance(outcome, ServiceError):
                outcome.name_image(number, len(self.outcomes))
                raise outcome
            answers.append(outcome)
        return answers

    def raise_if_service_failed(self) -> None:
        """Raise the first error if no image was answered for reasons that are none of its own."""
        if all(isinstance(o, ServiceError) and o.status >= 500 for o in self.outcomes):
            self.all()
