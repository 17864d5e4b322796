"""Tensors as the Open Inference Protocol has them: in JSON, or as bytes behind it.

https://github.com/kserve/open-inference-protocol, with Triton's extensions for binary data and
classification.
"""

import math
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, TypeGuard

from pydantic import BaseModel, ConfigDict, FailFast, Field

from app.api.body import decode_all
from app.api.json_text import parse_json
from app.classifier import Input, Tensor
from app.errors import BadRequest, TooManyImages
from app.pipeline import Answer

FLOAT_BYTES = 4
_LENGTH = struct.Struct("<I")  # before each element of BYTES
OUTPUTS = ("logits", "probabilities")  # attributes of a classification
NOT_HERE = {"shared_memory_region", "sequence_id", "sequence_start", "sequence_end"}


class Part(BaseModel):
    """What inputs and outputs have in common."""

    model_config = ConfigDict(extra="forbid")

    name: str
    parameters: dict[str, Any] = {}


class RequestInput(Part):
    """A tensor; its ``data`` is absent where ``binary_data_size`` bytes follow the JSON."""

    shape: Annotated[list[Annotated[int, Field(ge=0, strict=True)]], FailFast()]
    datatype: str
    data: list[Any] | None = None


class RequestOutput(Part):
    """What is wanted: with ``classification`` the best so many classes, ``binary_data`` or JSON."""


class InferRequest(BaseModel):
    """The JSON of a request."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[RequestInput], FailFast()]
    outputs: Annotated[list[RequestOutput], FailFast()] = []


class ResponseOutput(BaseModel):
    """A tensor of the answer."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model is given: one input, of rows.

    Attributes:
        shapes: of a row; any of them will do, and the first is the one that is told.
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
        """Of a row of numbers."""
        return FLOAT_BYTES * math.prod(self.shape)

    def images(self, given: RequestInput, behind: "Behind", max_rows: int) -> list[Input]:
        """The images of an input, in JSON or from what is ``behind`` it."""
        rows = self._rows(given)
        self.check(rows, max_rows)
        size = given.parameters.get("binary_data_size")
        if (given.data is None) == (size is None):
            raise BadRequest(f"input {given.name!r} must have either data or binary_data_size")
        if given.data is None:
            return self.split(behind.take(given.name, size), rows)
        values = flatten(given.data)
        if len(values) != rows * math.prod(self.shape):
            raise BadRequest(
                f"input {given.name!r} holds {len(values)} elements; "
                f"its shape has {rows * math.prod(self.shape)}"
            )
        if self.datatype == "BYTES":
            return [*decode_all(values)]
        try:
            return self.split(memoryview(array("f", values)).cast("B"), rows)
        except (TypeError, OverflowError) as error:
            raise BadRequest(f"input {given.name!r} holds what is no number: {error}") from error

    def _rows(self, given: RequestInput) -> int:
        if given.name != self.input:
            raise BadRequest(f"unknown input {given.name!r:.80}; {self.name} has {self.input!r}")
        if given.datatype != self.datatype:
            raise BadRequest(
                f"input {given.name!r} is {given.datatype:.20}; {self.name} takes {self.datatype}"
            )
        if not given.shape or tuple(given.shape[1:]) not in self.shapes:
            raise BadRequest(
                f"input {given.name!r} has shape {given.shape!s:.80}; expected {[-1, *self.shape]}"
            )
        return given.shape[0]

    def check(self, rows: int, max_rows: int) -> None:
        """Raise if there are none, or more than may be."""
        if not rows:
            raise BadRequest(f"input {self.input!r} has no rows")
        if rows > max_rows:
            raise TooManyImages(
                f"{rows!s:.20} rows in one request; at most {max_rows} are accepted"
            )

    def images_of_raw(self, content: memoryview, max_rows: int) -> list[Input]:
        """Of a body that is the input and nothing else: one image, or rows of numbers."""
        if self.datatype == "BYTES":
            return [bytes(content)]
        rows = len(content) // self.row_bytes
        self.check(rows, max_rows)
        return self.split(content, rows)

    def split(self, content: memoryview, rows: int) -> list[Input]:
        """Rows out of their bytes; `BadRequest` if those are not as many as there must be."""
        if self.datatype == "BYTES":
            return list[Input](elements(content, rows))
        size = self.row_bytes
        if len(content) != rows * size:
            raise BadRequest(
                f"input {self.input!r} has {len(content)} bytes; {rows} rows take {rows * size}"
            )
        return [Tensor(content[start : start + size]) for start in range(0, rows * size, size)]


def elements(content: memoryview, count: int) -> list[bytes]:
    """The elements of a tensor of BYTES, each behind its length; `BadRequest` if they are not."""
    found: list[bytes] = []
    start = 0
    while len(found) < count and start + _LENGTH.size <= len(content):
        (size,) = _LENGTH.unpack_from(content, start)
        begun = start + _LENGTH.size
        start = begun + size
        found.append(bytes(content[begun:start]))
    if len(found) < count or start != len(content):
        raise BadRequest(
            f"the {len(content)} bytes of the tensor are not {count} elements, "
            "each a little-endian length of 4 bytes and its content"
        )
    return found


class Behind:
    """The bytes behind the JSON, which inputs take in turn."""

    def __init__(self, content: memoryview) -> None:
        self._content = content

    def take(self, name: str, size: object) -> memoryview:
        if not is_count(size) or size > len(self._content):
            raise BadRequest(
                f"input {name!r}: binary_data_size is {size!r:.40}, "
                f"and {len(self._content)} bytes follow the JSON"
            )
        taken, self._content = self._content[:size], self._content[size:]
        return taken

    def end(self) -> None:
        """Raise `BadRequest` if anything is left."""
        if self._content:
            raise BadRequest(f"{len(self._content)} bytes follow that are of no input")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for.

    Attributes:
        top_k: of the best classes; 0 for all, as numbers.
        binary: behind the JSON instead of in it.
    """

    name: str
    top_k: int
    binary: bool


@dataclass(frozen=True, slots=True)
class Inference:
    """What a request asks for: images, and outputs for each.

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
) -> Inference:
    """A request out of its body.

    Args:
        header_length: bytes of JSON at its beginning; all of it if not given, none if 0: then the
            body is the input itself, one image or rows of numbers.

    Raises:
        BadRequest: it is not what the protocol and the model's signature have.
        TooManyImages: more than ``max_rows``.
    """
    content = memoryview(body)
    if header_length == 0:
        images = signature.images_of_raw(content, max_rows)
        return Inference(images, check_outputs([], {}, classes))
    if header_length is None:
        header_length = len(content)
    if header_length > len(content):
        raise BadRequest(f"{header_length} bytes of JSON are declared; the body has {len(content)}")
    request = _parse(bytes(content[:header_length]))
    behind = Behind(content[header_length:])
    if len(request.inputs) != 1:
        raise BadRequest(f"{len(request.inputs)} inputs; {signature.name} has one")
    images = signature.images(request.inputs[0], behind, max_rows)
    behind.end()
    return Inference(
        images,
        check_outputs(request.outputs, request.parameters, classes),
        request.id,
        _timeout(request.parameters.get("timeout", 0)),
    )


def _parse(content: bytes) -> InferRequest:
    request = parse_json(InferRequest, content, "no inference request")
    parts = [*request.inputs, *request.outputs]
    for parameters in (request.parameters, *(part.parameters for part in parts)):
        for name in NOT_HERE & set(parameters):
            raise BadRequest(f"parameter {name!r} is of an extension that is not here")
    return request


def _timeout(microseconds: object) -> float:
    """In seconds; 0 is none."""
    if not is_count(microseconds):
        raise BadRequest(f"timeout is {microseconds!r:.40}; it must be a number of microseconds")
    return microseconds / 1e6 or math.inf


def is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def check_outputs(
    outputs: Sequence[RequestOutput], parameters: Mapping[str, Any], classes: int
) -> list[Wanted]:
    """The outputs that are wanted, all if none is named; `BadRequest` for what cannot be had."""
    wanted = outputs or [RequestOutput(name=name) for name in OUTPUTS]
    if len({output.name for output in wanted}) < len(wanted):
        raise BadRequest("an output is asked for twice")
    checked = []
    for output in wanted:
        if output.name not in OUTPUTS:
            raise BadRequest(f"unknown output {output.name!r:.80}; there are {', '.join(OUTPUTS)}")
        binary = output.parameters.get("binary_data", parameters.get("binary_data_output", False))
        if not isinstance(binary, bool):
            raise BadRequest(f"output {output.name!r}: binary_data must be true or false")
        top_k = output.parameters.get("classification", 0)
        if not is_count(top_k) or top_k > classes:
            raise BadRequest(
                f"output {output.name!r}: classification is {top_k!r:.40}; "
                f"it must be a number from 1 to {classes}"
            )
        checked.append(Wanted(output.name, top_k, binary))
    return checked


def write_outputs(
    answers: Sequence[Answer], wanted: Sequence[Wanted]
) -> tuple[list[ResponseOutput], bytes]:
    """The outputs' JSON, and the bytes behind it."""
    outputs, behind = [], []
    for output in wanted:
        rows = [memoryview(getattr(answer.classification, output.name)) for answer in answers]
        found = ResponseOutput(
            name=output.name,
            datatype="BYTES" if output.top_k else "FP32",
            shape=[len(rows), output.top_k or len(rows[0])],
        )
        if output.top_k:
            texts = [
                f"{row[best.class_id]:f}:{best.class_id}:{best.label}"
                for answer, row in zip(answers, rows, strict=True)
                for best in answer.predictions[: output.top_k]
            ]
        if not output.binary:
            found.data = (
                texts if output.top_k else [value for row in rows for value in row.tolist()]
            )
        else:
            pieces = [*map(_element, texts)] if output.top_k else [*map(bytes, rows)]
            found.parameters = {"binary_data_size": sum(map(len, pieces))}
            behind += pieces
        outputs.append(found)
    return outputs, b"".join(behind)


def _element(text: str) -> bytes:
    content = text.encode()
    return _LENGTH.pack(len(content)) + content


def flatten(data: list[Any]) -> list[Any]:
    """Elements of an array that may be nested, row by row."""
    while data and isinstance(data[0], list):
        size = len(data[0])
        if not all(isinstance(part, list) and len(part) == size for part in data):
            raise BadRequest("data is nested unevenly")
        data = [*chain.from_iterable(data)]
    return data
