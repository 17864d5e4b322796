"""Images and answers of Python callers.

Answers are plain dictionaries, equal to the JSON of the HTTP routes, so that a caller can read them
without this package.
"""

from typing import Any, NotRequired, Protocol, TypedDict, cast

from app.http.problems import problem_of
from app.http.quoting import quoted
from app.http.schemas import Model, Predictions
from app.observability.record import RequestRecord
from app.serving.answers import Answer, Answers
from app.serving.classifier import Input, ModelInfo, Tensor
from app.serving.errors import BadRequest, ServiceError

IMAGES = "send the bytes of an image file, or an array of 32-bit floats"


class Array(Protocol):
    """An array with the buffer protocol, such as one of NumPy."""

    @property
    def shape(self) -> tuple[int, ...]: ...


Image = bytes | Array


class ModelName(TypedDict):
    name: str
    version: str


class Row(TypedDict):
    """A class, its softmax probability, and its WordNet synset if known."""

    class_id: int
    label: str
    score: float
    synset: NotRequired[str]


class ImageAnswer(TypedDict):
    """The answer of ``/predict``."""

    model: ModelName
    predictions: list[Row]


class ImageError(TypedDict):
    """A problem document, in the format of RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str


class ImageResult(TypedDict):
    """The best classes of one image, or its error."""

    predictions: NotRequired[list[Row]]
    error: NotRequired[ImageError]


class BatchAnswer(TypedDict):
    """The answer of ``/predict/batch``, in the order of the images."""

    model: ModelName
    results: list[ImageResult]


def to_input(image: object, info: ModelInfo) -> Input:
    """The image of a caller as the pipeline takes it; raises `BadRequest`.

    Args:
        image: an encoded image, or a decoded and normalised one: 32-bit floats of the shape
            ``(3, size, size)``.
    """
    if isinstance(image, bytes):
        return image
    try:
        view = memoryview(cast(Any, image))
    except TypeError as error:
        raise BadRequest(f"an image is of type {type(image).__name__}; {IMAGES}") from error
    shape = (3, info.image_size, info.image_size)
    if view.format not in ("f", "<f") or view.shape != shape:
        raise BadRequest(
            f"an array has the shape {quoted(str(view.shape))} and the type "
            f"{quoted(str(view.format))}; expected {shape} of 32-bit floats (f)"
        )
    return Tensor(view.cast("B") if view.c_contiguous else memoryview(view.tobytes()))


def to_answer(answer: Answer) -> ImageAnswer:
    found = Predictions.model_validate(answer).model_dump(exclude_none=True)
    return cast(ImageAnswer, found)


def to_batch_answer(answers: Answers, record: RequestRecord) -> BatchAnswer:
    model = Model.model_validate(answers.model).model_dump()
    results = [to_result(outcome, record) for outcome in answers.outcomes]
    return BatchAnswer(model=cast(ModelName, model), results=results)


def to_result(outcome: Answer | ServiceError, record: RequestRecord) -> ImageResult:
    if isinstance(outcome, Answer):
        return ImageResult(predictions=to_answer(outcome)["predictions"])
    return ImageResult(error=cast(ImageError, problem_of(outcome, record).model_dump()))
