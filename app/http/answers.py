"""Predictions as JSON, encoded in steps because an answer may have a hundred thousand rows."""

from collections.abc import Sequence

from pydantic import TypeAdapter

from app.http.problems import problem_of
from app.http.schemas import Model, PredictionRow, Predictions
from app.observability.record import RequestRecord
from app.serving.answers import Answer
from app.serving.classifier import ModelInfo, Prediction
from app.serving.errors import ServiceError
from app.serving.side_thread import SideThread, Steps

ROWS = 500  # encoded per step
_ROWS = TypeAdapter(list[PredictionRow])
_FILENAME = TypeAdapter(str)


async def write_answer(answer: Answer, side_thread: SideThread) -> bytes:
    """The answer of ``/predict``: `Predictions`; a long one is written in the side thread."""
    if len(answer.predictions) <= ROWS:
        return Predictions.model_validate(answer).model_dump_json(exclude_none=True).encode()
    return b"".join(await side_thread.run(_pieces_of(answer)))


def write_answers(answers: Sequence[Answer]) -> Steps[bytes]:
    """The answer to a request of Vertex AI: a list of `Predictions`."""
    pieces = [b'{"predictions":[']
    for number, answer in enumerate(answers):
        pieces += [b","] if number else []
        pieces += yield from _pieces_of(answer)
    return b"".join((*pieces, b"]}"))  # joined once: each copy takes long


def write_results(
    model: ModelInfo,
    results: Sequence[tuple[str | None, Answer | ServiceError]],
    record: RequestRecord,
) -> Steps[bytes]:
    """The answer of ``/predict/batch``: `BatchPredictions`, from file names and outcomes."""
    pieces = [_model(model), b',"results":[']
    for number, (filename, outcome) in enumerate(results):
        pieces.append(b",{" if number else b"{")
        if filename is not None:
            pieces += [b'"filename":', _FILENAME.dump_json(filename), b","]
        if isinstance(outcome, Answer):
            pieces += [b'"predictions":[', *(yield from _write_rows(outcome.predictions)), b"]}"]
        else:
            pieces += [b'"error":', problem_of(outcome, record).model_dump_json().encode(), b"}"]
        yield len(pieces[-2])
    return b"".join((*pieces, b"]}"))


def _pieces_of(answer: Answer) -> Steps[list[bytes]]:
    rows = yield from _write_rows(answer.predictions)
    return [_model(answer.model), b',"predictions":[', *rows, b"]}"]


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
