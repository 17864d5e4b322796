"""The routes that SageMaker and Vertex AI prescribe."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, FailFast

from app.config.cloud import Contract
from app.http.answers import write_answers
from app.http.bodies.base64_text import decode_images
from app.http.bodies.body import read_body
from app.http.bodies.json_text import parse_json
from app.http.parameters import PARAMETERS, TIMEOUT_PARAMETER, parse_top_k, read_query
from app.http.policy import Access, policy
from app.http.problems import IMAGE_ERRORS, REQUEST_ERRORS, problems
from app.http.routes.predict import REQUEST_BODY, json_response, predict_image
from app.http.schemas import Predictions, Probe, body_schema
from app.http.service import Service
from app.http.timeouts import in_time, while_connected
from app.observability.record import RequestRecord
from app.serving.errors import BadRequest, TooManyImages
from app.serving.held_bytes import size_of_all
from app.serving.side_thread import Steps


class Instance(BaseModel):
    """An image in base64."""

    model_config = ConfigDict(extra="forbid")

    b64: str


class VertexParameters(BaseModel):
    """Parameters for all images of a request."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = None


class VertexRequest(BaseModel):
    """The images and parameters of a request."""

    model_config = ConfigDict(extra="forbid")

    instances: Annotated[list[Instance], FailFast()]
    parameters: VertexParameters | None = None

    @property
    def top_k(self) -> str | None:
        """The parameter as text, as in the query of ``/predict``."""
        top_k = self.parameters and self.parameters.top_k
        return None if top_k is None else str(top_k)


class VertexResponse(BaseModel):
    """The answer of ``/predict`` for each image, in order."""

    predictions: list[Predictions]


VERTEX_BODY = {
    "required": True,
    "content": {"application/json": {"schema": body_schema(VertexRequest)}},
}


def router(service: Service, contract: Contract) -> APIRouter:
    """The two routes of a contract."""
    routes = APIRouter(tags=["cloud"])
    lifecycle = service.lifecycle

    @routes.get(
        contract.health_route,
        responses={503: {"description": "The service is not ready", "model": Probe}},
    )
    @policy(access=Access.OPEN, routine=True)
    async def cloud_health(response: Response) -> Probe:
        """200 if the service is ready for traffic."""
        response.status_code = 200 if lifecycle.ready else 503
        return Probe(state=lifecycle.state)

    if contract.cloud == "sagemaker":
        add_sagemaker(routes, service, contract.predict_route)
    else:
        add_vertex(routes, service, contract.predict_route)
    return routes


def add_sagemaker(routes: APIRouter, service: Service, path: str) -> None:
    @routes.post(
        path,
        response_model=Predictions,
        responses=problems(*REQUEST_ERRORS, *IMAGE_ERRORS),
        openapi_extra={"parameters": PARAMETERS, "requestBody": REQUEST_BODY},
    )
    @policy(admission=True)
    async def sagemaker(request: Request) -> Response:
        """Classify one image, as ``/predict`` does."""
        return await predict_image(request, service)


def add_vertex(routes: APIRouter, service: Service, path: str) -> None:
    pipeline, side_thread = service.pipeline, service.side_thread

    @routes.post(
        path,
        response_model=VertexResponse,
        responses=problems(*REQUEST_ERRORS, *IMAGE_ERRORS, TooManyImages),
        openapi_extra={"parameters": [TIMEOUT_PARAMETER], "requestBody": VERTEX_BODY},
    )
    @policy(admission=True)
    async def vertex(request: Request) -> Response:
        """Classify many images; if one fails, the request fails."""
        record: RequestRecord = request.state.record
        read_query(request, instead='send {"parameters": {"top_k": …}} in the body')
        with pipeline.upload() as hold:
            body = await read_body(request, hold, side_thread)
            steps = read_instances(body, service.settings.max_queue_size)
            parsed, images = await in_time(record, side_thread.run(steps, hold, size=len(body)))
            del body, steps
            hold.set_size(size_of_all(images))
            top_k = parse_top_k(parsed.top_k, pipeline.served.num_classes)
            answers = await while_connected(
                request, pipeline.predict_many(images, top_k, record.deadline, record.timings)
            )
        content = await side_thread.run(write_answers(answers.all()))
        return json_response(content, record)


def read_instances(body: bytes, most: int) -> Steps[tuple[VertexRequest, list[bytes]]]:
    """The request and its images.

    Raises:
        BadRequest: the body is malformed, or an image is not base64.
        TooManyImages: there are more than ``most``.
    """
    otherwise = 'the body is not {"instances": [{"b64": "<base64>"}], "parameters": {"top_k": 5}}'
    request, lifted = yield from parse_json(VertexRequest, body, otherwise, rows=most)
    if not request.instances:
        raise BadRequest("instances is empty; send at least one image")
    if len(request.instances) > most:
        raise TooManyImages(
            f"{len(request.instances)} images in one request; the maximum is {most}"
        )
    images = yield from decode_images([lifted.string(each.b64) for each in request.instances])
    return request, images
