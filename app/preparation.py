"""The model side of a worker: prepares images and reads answers, without PyTorch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from app.serving import errors
from app.serving.classifier import Classification, Figures, Input, Tensor
from model.drift import figures_of
from model.errors import ImageError, ImageTooLarge, InvalidImage, InvalidTensor, UnsupportedImage
from model.images.preprocess import Prepared, prepare, unnormalise
from model.inference.exchange import read_classification, spec_from_json, write_item
from model.inference.views import prepare_views, views_to_bytes
from model.spec import ModelSpec

IMAGE_ERRORS: dict[type[ImageError], type[errors.ServiceError]] = {
    UnsupportedImage: errors.UnsupportedMediaType,
    InvalidImage: errors.InvalidImage,
    ImageTooLarge: errors.ImageTooLarge,
    InvalidTensor: errors.BadRequest,
}


@contextmanager
def image_errors() -> Iterator[None]:
    """Convert the model's image errors into the service's."""
    try:
        yield
    except ImageError as error:
        raise IMAGE_ERRORS[type(error)](str(error)) from error


def prepare_input(image: Input, spec: ModelSpec, max_pixels: int) -> Prepared:
    """The item of an encoded image or a tensor; raises a `ServiceError` if it is invalid."""
    with image_errors():
        if isinstance(image, Tensor):
            return Prepared(unnormalise(image.values, spec.preprocess), None)
        return prepare(image, spec.preprocess, max_pixels=max_pixels)


def measure(item: Prepared, found: Classification, spec: ModelSpec) -> Figures:
    """The numbers that the metrics count for a classified item."""
    return Figures(*figures_of(*item, found.logits, spec.temperatures))


class RemotePreparer:
    """Prepares images for a model that another process runs.

    Args:
        spec: the description of the model, from `app.loading.SlotClassifier.spec`.
    """

    def __init__(self, spec: Mapping[str, Any], max_pixels: int) -> None:
        self._spec = spec_from_json(spec)
        self._max_pixels = max_pixels

    def preprocess(self, image: Input) -> Prepared:
        """See `app.serving.classifier.Classifier.preprocess`."""
        return prepare_input(image, self._spec, self._max_pixels)

    def prepare_explanation(self, data: bytes) -> bytes:
        """The pixels of the two views of an image that an explanation needs."""
        with image_errors():
            views = prepare_views(data, self._spec.preprocess, self._max_pixels)
        return views_to_bytes(views)

    def write(self, item: Prepared, slot: memoryview) -> bool:
        """Copy a prepared image into a slot; returns whether it is made of 32-bit floats."""
        return write_item(item.seen, slot)

    def read(self, slot: memoryview, top_k: int) -> Classification:
        """The answer that the engine has written into a slot."""
        return read_classification(slot, top_k, self._spec)

    def figures(self, item: Prepared, found: Classification) -> Figures:
        """See `app.serving.classifier.Classifier.figures`."""
        return measure(item, found, self._spec)
