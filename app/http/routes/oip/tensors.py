"""Parsing of the Open Inference Protocol's requests and tensors, in steps."""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from app.http.bodies.base64_text import decode_images
from app.http.bodies.json_text import Lifted, parse_json
from app.http.quoting import quoted
from app.http.routes.oip.outputs import LENGTH, Wanted, check_outputs, is_count
from app.http.routes.oip.schemas import InferRequest, RequestInput, parameter
from app.serving.classifier import Input, Tensor
from app.serving.errors import BadRequest, TooManyImages
from app.serving.side_thread import Steps

FLOAT_BYTES = 4
UNSUPPORTED = {"shared_memory_region", "sequence_id", "sequence_start", "sequence_end"}


@dataclass(frozen=True, slots=True)
class Signature:
    """The input of a model.

    Attributes:
        shapes: the accepted shapes of a row; metadata shows the first.
    """

    name: str
    input: str
    datatype: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[0]

    @property
    def row_bytes(self) -> int:
        """The size of a row of numbers in bytes."""
        return FLOAT_BYTES * math.prod(self.shape)

    def images(
        self, tensor: RequestInput, lifted: Lifted, binary: "BinaryData", max_rows: int
    ) -> Steps[list[Input]]:
        """The images of an input, from JSON or from the bytes after it."""
        rows = self._rows(tensor)
        self.check(rows, max_rows)
        size = tensor.parameter("binary_data_size")
        if (tensor.data is None) == (size is None):
            raise BadRequest(f"input '{self.input}' must have either data or binary_data_size")
        if tensor.data is None:
            return (yield from self.split(binary.take(self.input, size), rows))
        count = rows * math.prod(self.shape)
        numbers = lifted.numbers(tensor.data)
        values = flatten(tensor.data, count) if numbers is None else numbers
        if len(values) != count:
            raise BadRequest(
                f"input '{self.input}' has {len(values)} elements; its shape requires {count}"
            )
        if self.datatype == "BYTES":
            return [*(yield from decode_images([_text(each, lifted) for each in values]))]
        return (yield from self.split(memoryview(_floats(values)).cast("B"), rows))

    def _rows(self, tensor: RequestInput) -> int:
        if tensor.name != self.input:
            raise BadRequest(f"unknown input {quoted(tensor.name)}; {self.name} has '{self.input}'")
        if tensor.datatype != self.datatype:
            raise BadRequest(
                f"input '{self.input}' is {quoted(tensor.datatype, 20)}; "
                f"{self.name} takes {self.datatype}"
            )
        if not tensor.shape or tuple(tensor.shape[1:]) not in self.shapes:
            raise BadRequest(
                f"input '{self.input}' has shape {quoted(tensor.shape)}; "
                f"expected {[-1, *self.shape]}"
            )
        return tensor.shape[0]

    def check(self, rows: int, max_rows: int) -> None:
        """Raises `BadRequest` without rows, and `TooManyImages` for more than ``max_rows``."""
        if not rows:
            raise BadRequest(f"input '{self.input}' has no rows")
        if rows > max_rows:
            raise TooManyImages(
                f"{quoted(rows, 20)} rows in one request; the maximum is {max_rows}"
            )

    def images_of_raw(self, content: memoryview, max_rows: int) -> Steps[list[Input]]:
        """The images of a raw input without JSON: one image, or rows of numbers."""
        if self.datatype == "BYTES":
            return [bytes(content)]
        rows = len(content) // self.row_bytes
        self.check(rows, max_rows)
        return (yield from self.split(content, rows))

    def split(self, content: memoryview, rows: int) -> Steps[list[Input]]:
        """Split bytes into rows; raises `BadRequest` if the size does not match."""
        if self.datatype == "BYTES":
            return [*(yield from elements(content, rows))]
        size = self.row_bytes
        if len(content) != rows * size:
            raise BadRequest(
                f"input '{self.input}' has {len(content)} bytes; {rows} rows take {rows * size}"
            )
        return [Tensor(content[start : start + size]) for start in range(0, rows * size, size)]


def elements(content: memoryview, count: int) -> Steps[list[bytes]]:
    """The elements of a BYTES tensor, each preceded by its length; raises `BadRequest`."""
    found: list[bytes] = []
    start = 0
    while len(found) < count and start + LENGTH.size <= len(content):
        (size,) = LENGTH.unpack_from(content, start)
        begun = start + LENGTH.size
        start = begun + size
        found.append(bytes(content[begun:start]))
        yield len(found[-1])
    if len(found) < count or start != len(content):
        raise BadRequest(
            f"the {len(content)} bytes of the tensor are not {count} elements, "
            "each a little-endian length of 4 bytes followed by its content"
        )
    return found


def _text(value: object, lifted: Lifted) -> Iterable[str]:
    """The pieces of an image's base64 text; raises `BadRequest` for other values."""
    if not isinstance(value, str):
        raise BadRequest(f"an image must be a base64 string, not {quoted(value, 40)}")
    return lifted.string(value)


def _floats(values: Sequence[Any]) -> "array[float]":
    try:
        return values if isinstance(values, array) else array("f", values)
    except (TypeError, OverflowError) as error:
        invalid = next((v for v in values if not isinstance(v, int | float)), "a number too large")
        raise BadRequest(
            f"the tensor's data has {quoted(invalid, 40)}, which is not a 32-bit number"
        ) from error


class BinaryData:
    """The bytes after the JSON, which inputs take in turn."""

    def __init__(self, content: memoryview) -> None:
        self._content = content

    def take(self, name: str, size: Any) -> memoryview:
        """The next ``size`` bytes."""
        if not is_count(size) or size > len(self._content):
            raise BadRequest(
                f"input '{name}': binary_data_size is {quoted(size, 40)}, "
                f"and {len(self._content)} bytes follow the JSON"
            )
        taken, self._content = self._content[:size], self._content[size:]
        return taken

    def end(self) -> None:
        """Raise `BadRequest` if anything is left."""
        if self._content:
            raise BadRequest(f"{len(self._content)} unexpected bytes after the inputs")


@dataclass(frozen=True, slots=True)
class Inference:
    """A parsed request.

    Attributes:
        outputs: the requested outputs for each image.
        timeout: seconds from the request's first byte.
    """

    images: list[Input]
    outputs: list[Wanted]
    id: str | None = None
    timeout: float = math.inf

    @property
    def top_k(self) -> int:
        """The number of best classes that the outputs need."""
        return max(1, *(output.top_k for output in self.outputs))


def read_inference(
    body: bytes, header_length: int | None, signature: Signature, classes: int, max_rows: int
) -> Steps[Inference]:
    """Parse the body of a request.

    Args:
        header_length: size of the JSON at the beginning; ``None`` if the whole body is JSON, 0 if
            the body is a raw input: one image, or rows of numbers.

    Raises:
        BadRequest: the request is malformed or does not match the model's signature.
        TooManyImages: the input has more than ``max_rows`` rows.
    """
    content = memoryview(body)
    if header_length == 0:
        images = yield from signature.images_of_raw(content, max_rows)
        return Inference(images, check_outputs([], None, classes))
    if header_length is None:
        header_length = len(content)
    if header_length > len(content):
        raise BadRequest(f"{header_length} bytes of JSON declared; the body has {len(content)}")
    text = body if header_length == len(body) else bytes(content[:header_length])
    request, lifted = yield from parse_json(
        InferRequest, text, "not an inference request", rows=max_rows
    )
    _refuse_extensions(request)
    binary = BinaryData(content[header_length:])
    if len(request.inputs) != 1:
        raise BadRequest(f"{len(request.inputs)} inputs; {signature.name} takes one")
    images = yield from signature.images(request.inputs[0], lifted, binary, max_rows)
    binary.end()
    return Inference(
        images,
        check_outputs(request.outputs or [], request.parameters, classes),
        request.id,
        _timeout(parameter(request.parameters, "timeout", 0)),
    )


def _refuse_extensions(request: InferRequest) -> None:
    parts = [*request.inputs, *(request.outputs or [])]
    for parameters in (request.parameters, *(part.parameters for part in parts)):
        for name in UNSUPPORTED & (parameters or {}).keys():
            if parameter(parameters, name) is not None:
                raise BadRequest(f"parameter '{name}' belongs to an unsupported extension")


def _timeout(microseconds: Any) -> float:
    """A timeout in seconds; infinite for 0."""
    if not is_count(microseconds):
        raise BadRequest(
            f"timeout is {quoted(microseconds, 40)}; it must be a whole number of microseconds"
        )
    return float(microseconds / 1e6 or math.inf)


def flatten(data: list[Any], most: int) -> list[Any]:
    """The elements of an array that may be nested, row by row.

    A dimension of over ``most`` elements is returned unchanged.
    """
    while data and len(data) <= most and isinstance(data[0], list):
        size = len(data[0])
        if not all(isinstance(part, list) and len(part) == size for part in data):
            raise BadRequest("data is nested unevenly")
        data = [*chain.from_iterable(data)]
    return data
