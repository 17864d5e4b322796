"""The requested outputs of the Open Inference Protocol, and their encoding."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from app.http.quoting import quoted
from app.http.routes.oip.schemas import InferResponse, RequestOutput, ResponseOutput, parameter
from app.serving.answers import Answer
from app.serving.errors import BadRequest
from app.serving.side_thread import Steps

OUTPUTS = ("logits", "probabilities")  # attributes of a classification
LENGTH = struct.Struct("<I")  # before each element of BYTES


@dataclass(frozen=True, slots=True)
class Wanted:
    """A requested output.

    Attributes:
        top_k: number of best classes; 0 for the values of all classes.
        binary: whether the output follows the JSON as bytes.
    """

    name: str
    top_k: int
    binary: bool


def check_outputs(
    outputs: Sequence[RequestOutput], parameters: dict[str, Any] | None, classes: int
) -> list[Wanted]:
    """The requested outputs, by default all; raises `BadRequest` for an invalid one."""
    wanted = outputs or [RequestOutput(name=name) for name in OUTPUTS]
    if len({output.name for output in wanted}) < len(wanted):
        raise BadRequest("an output is requested twice; request it once")
    default = parameter(parameters, "binary_data_output", default=False)
    return [_check(output, default, classes) for output in wanted]


def _check(output: RequestOutput, binary_default: Any, classes: int) -> Wanted:
    if output.name not in OUTPUTS:
        raise BadRequest(
            f"unknown output {quoted(output.name)}; the outputs are {', '.join(OUTPUTS)}"
        )
    binary = output.parameter("binary_data", binary_default)
    if not isinstance(binary, bool):
        raise BadRequest(f"output '{output.name}': binary_data must be true or false")
    top_k = output.parameter("classification", 0)
    if not is_count(top_k) or top_k > classes:
        raise BadRequest(
            f"output '{output.name}': classification is {quoted(top_k, 40)}; "
            f"it must be a whole number from 1 to {classes}"
        )
    return Wanted(output.name, top_k, binary)


def is_count(value: object) -> bool:
    """Whether a JSON value is a non-negative whole number of at most 63 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def write_response(
    response: InferResponse, answers: Sequence[Answer], wanted: Sequence[Wanted]
) -> Steps[tuple[bytes, bytes]]:
    """Add the outputs to a response; returns its JSON and the bytes that follow."""
    pieces: list[bytes] = []
    binary: list[bytes] = []
    for output in wanted:
        rows = yield from _rows(answers, output)
        found = ResponseOutput(
            name=output.name,
            datatype="BYTES" if output.top_k else "FP32",
            shape=[len(answers), output.top_k or len(answers[0].classification.logits)],
        )
        pieces += [b","] if pieces else []
        if output.binary:
            found.parameters = {"binary_data_size": sum(map(len, rows))}
            binary += rows
            pieces.append(_text(found))
        else:
            pieces += _with(_text(found), b"data", rows)
    yield 0
    head = _text(response, exclude={"outputs"})
    return b"".join(_with(head, b"outputs", pieces)), b"".join(binary)


def _text(part: BaseModel, exclude: set[str] | None = None) -> bytes:
    return part.model_dump_json(exclude_none=True, exclude=exclude).encode()


def _with(text: bytes, name: bytes, pieces: Sequence[bytes]) -> list[bytes]:
    """Add a list, given in pieces, as a member to a JSON object; returns the object in pieces."""
    return [text[:-1], b',"%b":[' % name, *pieces, b"]}"]


def _rows(answers: Sequence[Answer], output: Wanted) -> Steps[list[bytes]]:
    """The values of an output: the bytes of each row, or pieces of a JSON list."""
    rows: list[bytes] = []
    for answer in answers:
        if rows and not output.binary:
            rows.append(b",")
        values = memoryview(getattr(answer.classification, output.name))
        if output.top_k:
            texts = [
                f"{values[best.class_id]:f}:{best.class_id}:{best.label}"
                for best in answer.predictions[: output.top_k]
            ]
            rows.append(b"".join(map(_element, texts)) if output.binary else to_json(texts)[1:-1])
        else:
            rows.append(bytes(values) if output.binary else to_json(values.tolist())[1:-1])
        yield len(rows[-1])
    return rows


def _element(text: str) -> bytes:
    content = text.encode()
    return LENGTH.pack(len(content)) + content
