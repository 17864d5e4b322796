"""Predictions as JSON, encoded in steps: one answer may have a hundred thousand rows."""

from collections.abc import Sequence

from pydantic import TypeAdapter

from app.api.errors import problem_of
from app.api.schemas import Model, PredictionRow
from app.classifier import ModelInfo, Prediction
from app.errors import ServiceError
from app.pipeline import Answer
from app.record import RequestRecord
from app.side_thread import Steps

ROWS = 500  # that a step encodes
_ROWS = TypeAdapter(list[PredictionRow])
_FILENAME = TypeAdapter(str)


def write_answer(answer: Answer) -> Steps[bytes]:
    """What ``/predict`` answers: `Predictions`."""
    pieces = [_model(answer.model), b',"predictions":[']
    pieces += yield from _write_rows(answer.predictions)
    return b"".join((*pieces, b"]}"))


def write_answers(answers: Sequence[Answer]) -> Steps[bytes]:
    """What a request of Vertex AI is answered: a list of `Predictions`."""
    found = [b""] * len(answers)
    for number, answer in enumerate(answers):
        found[number] = yield from write_answer(answer)
    return b'{"predictions":[' + b",".join(found) + b"]}"


def write_results(
    model: ModelInfo,
    results: Sequence[tuple[str | None, Answer | ServiceError]],
    record: RequestRecord,
) -> Steps[bytes]:
    """What ``/predict/batch`` answers: `BatchPredictions`, of file names and outcomes."""
    found = []
    for filename, outcome in results:
        pieces = [b"{"]
        if filename is not None:
            pieces += [b'"filename":', _FILENAME.dump_json(filename), b","]
        if isinstance(outcome, Answer):
            pieces += [b'"predictions":[', *(yield from _write_rows(outcome.predictions)), b"]}"]
        else:
            pieces += [b'"error":', problem_of(outcome, record).model_dump_json().encode(), b"}"]
        found.append(b"".join(pieces))
        yield len(found[-1])
    return _model(model) + b',"results":[' + b",".join(found) + b"]}"


def _model(model: ModelInfo) -> bytes:
    return b'{"model":' + Model.model_validate(model).model_dump_json().encode()


def _write_rows(rows: Sequence[Prediction]) -> Steps[list[bytes]]:
    """The rows of a JSON list, in pieces."""
    pieces: list[bytes] = []
    for start in range(0, len(rows), ROWS):
        some = _ROWS.validate_python(rows[start : start + ROWS], from_attributes=True)
        pieces += [b"," if start else b"", _ROWS.dump_json(some, exclude_none=True)[1:-1]]
        yield len(pieces[-1])
    return pieces
