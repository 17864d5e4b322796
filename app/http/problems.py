"""Errors as RFC 9457 problem documents."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from app.http.policy import ErrorFormat
from app.http.route_table import RouteTable
from app.http.schemas import Problem
from app.observability.record import RequestRecord, shorten
from app.serving.errors import (
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

MEDIA_TYPE = "application/problem+json"
MAX_DETAIL = 1024  # characters; the texts of clients in it have already been shortened
REQUEST_ERRORS = (  # of every prediction request
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
IMAGE_ERRORS = (InvalidImage, ImageTooLarge, UnsupportedMediaType)

RETRY_AFTER = {
    "description": "Seconds to wait before retrying.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}


def problem_of(error: ServiceError, record: RequestRecord) -> Problem:
    """The problem document of an error."""
    return Problem(
        type=f"/problems/{error.problem}",
        title=error.title,
        status=error.status,
        detail=error.detail[:MAX_DETAIL],
        instance=shorten(record.path),
        request_id=record.request_id,
    )


def problem_response(
    error: ServiceError, record: RequestRecord, error_format: ErrorFormat = ErrorFormat.PROBLEM
) -> Response:
    """The answer to a request that failed."""
    return _respond(problem_of(error, record), error_format, error.headers)


def add_error_handlers(app: FastAPI) -> None:
    """Convert the framework's errors; a `ServiceError` propagates to the middleware."""
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_exception_handler(HTTPException, _refuse_route)


def problems(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for OpenAPI."""
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
    details = (
        f"{shorten(str(detail['loc'][-1]))}: {shorten(detail['msg'])}" for detail in error.errors()
    )
    raise InvalidParameter("; ".join(details))


async def _refuse_route(request: Request, error: Exception) -> Response:
    """Answer 404 or 405."""
    assert isinstance(error, HTTPException)
    record: RequestRecord = request.state.record
    routes: RouteTable = request.state.routes
    path = shorten(record.path)
    docs = f"{request.scope.get('root_path', '')}/docs"
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(routes.methods(record.path))
    phrase = HTTPStatus(error.status_code).phrase
    problem = Problem(
        type=f"/problems/{phrase.lower().replace(' ', '-')}",
        title=phrase.capitalize(),
        status=error.status_code,
        detail=f"{request.method} {path}: {error.detail}; {docs} lists the routes",
        instance=path,
        request_id=record.request_id,
    )
    return _respond(problem, routes.find(request.method, record.path).policy.error_format, headers)


def _respond(
    problem: Problem, error_format: ErrorFormat, headers: Mapping[str, str] | None
) -> Response:
    content = problem.model_dump()
    if error_format is ErrorFormat.V2:
        content["error"] = problem.detail
    return JSONResponse(content, problem.status, headers=headers, media_type=MEDIA_TYPE)
