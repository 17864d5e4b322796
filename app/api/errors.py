"""Every error as an RFC 9457 problem document, whoever raised it."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from app.api.schemas import Problem
from app.errors import (
    BadRequest,
    BodyTooLarge,
    CrossSiteRequest,
    DeadlineExceeded,
    Draining,
    ImageTooLarge,
    InternalError,
    InvalidImage,
    InvalidParameter,
    MisdirectedRequest,
    NotReady,
    Overloaded,
    RequestTimeout,
    ServiceError,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)
from app.record import RequestRecord

MEDIA_TYPE = "application/problem+json"
PROTOCOL_V2 = "/v2"  # where clients read ``error``, the detail once more
# What any request for a prediction may meet, and what any image.
OF_THE_REQUEST = (
    BadRequest,
    Unauthorized,
    CrossSiteRequest,
    RequestTimeout,
    BodyTooLarge,
    MisdirectedRequest,
    InvalidParameter,
    InternalError,
    NotReady,
    Overloaded,
    Draining,
    DeadlineExceeded,
)
OF_THE_IMAGE = (InvalidImage, ImageTooLarge, UnsupportedMediaType)

RETRY_AFTER = {
    "description": "Seconds until it is worth another try.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}


def problem_of(error: ServiceError, record: RequestRecord) -> Problem:
    """What a client is told of an error of its request."""
    return Problem(
        type=f"/problems/{error.problem}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=record.path,
        request_id=record.request_id,
    )


def problem_response(error: ServiceError, record: RequestRecord) -> Response:
    return _respond(problem_of(error, record), error.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Errors of the framework take the same form; a `ServiceError` goes up to the middleware."""
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_exception_handler(HTTPException, _refuse_route)


def problems(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI is told of the errors of a route."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        response = responses.setdefault(
            error.status,
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
            },
        )
        if issubclass(error, Unavailable):
            response["headers"] = {"Retry-After": RETRY_AFTER}
        response["description"] += f"{', ' if response['description'] else ''}`{error.problem}`"
    return responses


async def _refuse_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    details = (f"{mistake['loc'][-1]}: {mistake['msg']}" for mistake in error.errors())
    raise InvalidParameter("; ".join(details))


async def _refuse_route(request: Request, error: Exception) -> Response:
    """404 and 405."""
    assert isinstance(error, HTTPException)
    record: RequestRecord = request.state.record
    docs = f"{request.scope.get('root_path', '')}/docs"
    phrase = HTTPStatus(error.status_code).phrase
    problem = Problem(
        type=f"/problems/{phrase.lower().replace(' ', '-')}",
        title=phrase.capitalize(),
        status=error.status_code,
        detail=f"{request.method} {record.path}: {error.detail}; {docs} lists the routes",
        instance=record.path,
        request_id=record.request_id,
    )
    return _respond(problem, error.headers)


def _respond(problem: Problem, headers: Mapping[str, str] | None) -> Response:
    content = problem.model_dump()
    if problem.instance.startswith(PROTOCOL_V2):
        content["error"] = problem.detail
    return JSONResponse(content, problem.status, headers=headers, media_type=MEDIA_TYPE)
