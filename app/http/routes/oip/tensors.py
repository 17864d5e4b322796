"""Tensors of the Open Inference Protocol: in JSON, or as bytes behind it. Read in steps."""

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
NOT_HERE = {"shared_memory_region", "sequence_id", "sequence_start", "sequence_end"}


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes: one input, of rows.

    Attributes:
        shapes: of a row; all of them are accepted, and metadata names the first.
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
        """Bytes of a row of numbers."""
        return FLOAT_BYTES * math.prod(self.shape)

    def images(
        self, given: RequestInput, lifted: Lifted, behind: "Behind", max_rows: int
    ) -> Steps[list[Input]]:
        """The images of an input, in JSON or in the bytes ``behind`` it."""
        rows = self._rows(given)
        self.check(rows, max_rows)
        size = given.parameter("binary_data_size")
        if (given.data is None) == (size is None):
            raise BadRequest(f"input '{self.input}' must have either data or binary_data_size")
        if given.data is None:
            return (yield from self.split(behind.take(self.input, size), rows))
        count = rows * math.prod(self.shape)
        numbers = lifted.numbers(given.data)
        values = flatten(given.data, count) if numbers is None else numbers
        if len(values) != count:
            raise BadRequest(
                f"input '{self.input}' holds {len(values)} elements; its shape has {count}"
            )
        if self.datatype == "BYTES":
            return [*(yield from decode_images([_text(each, lifted) for each in values]))]
        return (yield from self.split(memoryview(_floats(values)).cast("B"), rows))

    def _rows(self, given: RequestInput) -> int:
        if given.name != self.input:
            raise BadRequest(f"unknown input {quoted(given.name)}; {self.name} has '{self.input}'")
        if given.datatype != self.datatype:
            raise BadRequest(
                f"input '{self.input}' is {quoted(given.datatype, 20)}; "
                f"{self.name} takes {self.datatype}"
            )
        if not given.shape or tuple(given.shape[1:]) not in self.shapes:
            raise BadRequest(
                f"input '{self.input}' has shape {quoted(given.shape)}; "
                f"expected {[-1, *self.shape]}"
            )
        return given.shape[0]

    def check(self, rows: int, max_rows: int) -> None:
        """Raise if there are no rows, or more than ``max_rows``."""
        if not rows:
            raise BadRequest(f"input '{self.input}' has no rows")
        if rows > max_rows:
            raise TooManyImages(
                f"{quoted(rows, 20)} rows in one request; at most {max_rows} are accepted"
            )

    def images_of_raw(self, content: memoryview, max_rows: int) -> Steps[list[Input]]:
        """The images of a body that is the input alone: one image, or rows of numbers."""
        if self.datatype == "BYTES":
            return [bytes(content)]
        rows = len(content) // self.row_bytes
        self.check(rows, max_rows)
        return (yield from self.split(content, rows))

    def split(self, content: memoryview, rows: int) -> Steps[list[Input]]:
        """Rows out of their bytes; `BadRequest` if there are not as many bytes as they take."""
        if self.datatype == "BYTES":
            return [*(yield from elements(content, rows))]
        size = self.row_bytes
        if len(content) != rows * size:
            raise BadRequest(
                f"input '{self.input}' has {len(content)} bytes; {rows} rows take {rows * size}"
            )
        return [Tensor(content[start : start + size]) for start in range(0, rows * size, size)]


def elements(content: memoryview, count: int) -> Steps[list[bytes]]:
    """The elements of a tensor of BYTES, each behind its length; `BadRequest` if they are not."""
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
            "each a little-endian length of 4 bytes and its content"
        )
    return found


def _text(value: object, lifted: Lifted) -> Iterable[str]:
    """The pieces of an image's base64; `BadRequest` if it is not a string."""
    if not isinstance(value, str):
        raise BadRequest(f"an image is a string of base64, and not {quoted(value, 40)}")
    return lifted.string(value)


def _floats(values: Sequence[Any]) -> "array[float]":
    try:
        return values if isinstance(values, array) else array("f", values)
    except (TypeError, OverflowError) as error:
        strange = next((v for v in values if not isinstance(v, int | float)), "a number too large")
        raise BadRequest(
            f"the tensor's data has {quoted(strange, 40)}, which is not a number of 32 bits"
        ) from error


class Behind:
    """The bytes behind the JSON, which inputs take in turn."""

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
    """A request: images, and outputs for each.

    Attributes:
        timeout: seconds from the request's first byte.
    """

    images: list[Input]
    outputs: list[Wanted]
    id: str | None = None
    timeout: float = math.inf

    @property
    def top_k(self) -> int:
        """How many of the best classes are needed."""
        return max(1, *(output.top_k for output in self.outputs))


def read_inference(
    body: bytes, header_length: int | None, signature: Signature, classes: int, max_rows: int
) -> Steps[Inference]:
    """A request out of its body.

    Args:
        header_length: bytes of JSON at its beginning; all of it if not given, none if 0: then the
            body is the input itself, one image or rows of numbers.

    Raises:
        BadRequest: it is not a request of the protocol, or not one for the model's signature.
        TooManyImages: more than ``max_rows``.
    """
    content = memoryview(body)
    if header_length == 0:
        images = yield from signature.images_of_raw(content, max_rows)
        return Inference(images, check_outputs([], None, classes))
    if header_length is None:
        header_length = len(content)
    if header_length > len(content):
        raise BadRequest(f"{header_length} bytes of JSON are declared; the body has {len(content)}")
    text = body if header_length == len(body) else bytes(content[:header_length])
    request, lifted = yield from parse_json(
        InferRequest, text, "not an inference request", rows=max_rows
    )
    _refuse_extensions(request)
    behind = Behind(content[header_length:])
    if len(request.inputs) != 1:
        raise BadRequest(f"{len(request.inputs)} inputs; {signature.name} has one")
    images = yield from signature.images(request.inputs[0], lifted, behind, max_rows)
    behind.end()
    return Inference(
        images,
        check_outputs(request.outputs or [], request.parameters, classes),
        request.id,
        _timeout(parameter(request.parameters, "timeout", 0)),
    )


def _refuse_extensions(request: InferRequest) -> None:
    parts = [*request.inputs, *(request.outputs or [])]
    for parameters in (request.parameters, *(part.parameters for part in parts)):
        for name in NOT_HERE & (parameters or {}).keys():
            if parameter(parameters, name) is not None:
                raise BadRequest(f"parameter '{name}' is of an extension that is not supported")


def _timeout(microseconds: Any) -> float:
    """A timeout in seconds; 0 is none."""
    if not is_count(microseconds):
        raise BadRequest(
            f"timeout is {quoted(microseconds, 40)}; it must be a number of microseconds"
        )
    return float(microseconds / 1e6 or math.inf)


def flatten(data: list[Any], most: int) -> list[Any]:
    """Elements of an array that may be nested, row by row.

    Where a dimension has over ``most`` elements it is returned as it is.
    """
    while data and len(data) <= most and isinstance(data[0], list):
        size = len(data[0])
        if not all(isinstance(part, list) and len(part) == size for part in data):
            raise BadRequest("data is nested unevenly")
        data = [*chain.from_iterable(data)]
    return data
