"""The results of classifying one image, and several images of one request."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.serving.classifier import Classification, ModelInfo, Prediction
from app.serving.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Answer:
    """The model that classified an image, the best classes, and the whole classification."""

    model: ModelInfo
    predictions: Sequence[Prediction]
    classification: Classification


@dataclass(frozen=True, slots=True)
class Answers:
    """The outcomes of the images in one request, in order, and the model that was used."""

    model: ModelInfo
    outcomes: Sequence[Answer | ServiceError]

    def all(self) -> list[Answer]:
        """The answers to all images; raises the first error, if there is one."""
        answers = []
        for number, outcome in enumerate(self.outcomes):
            if isinstance(outcome, ServiceError):
                outcome.name_image(number, len(self.outcomes))
                raise outcome
            answers.append(outcome)
        return answers

    def raise_if_service_failed(self) -> None:
        """Raise the first error if every image failed because of the service."""
        if all(isinstance(o, ServiceError) and o.status >= 500 for o in self.outcomes):
            self.all()
