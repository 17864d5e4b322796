"""The routes that a cloud's model hosting prescribes: SageMaker's and Vertex AI's."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, FailFast

from app.config.cloud import Contract
from app.http.answers import write_answers
from app.http.api_keys import ApiKeys
from app.http.auth import key_scheme
from app.http.bodies.base64_text import decode_images
from app.http.bodies.body import read_body
from app.http.bodies.json_text import parse_json
from app.http.parameters import PARAMETERS, PATIENCE_PARAMETER, parse_top_k, read_query
from app.http.problems import OF_THE_IMAGE, OF_THE_REQUEST, problems
from app.http.routes.predict import REQUEST_BODY, json_response, predict_image
from app.http.schemas import Predictions, Probe, body_schema
from app.http.timeouts import in_time, while_connected
from app.observability.record import RequestRecord
from app.serving.errors import BadRequest, TooManyImages
from app.serving.lifecycle import Lifecycle
from app.serving.pipeline import Pipeline, size_of_all
from app.serving.side_thread import SideThread, Steps


class Instance(BaseModel):
    """An image."""

    model_config = ConfigDict(extra="forbid")

    b64: str


class VertexParameters(BaseModel):
    """Parameters for all images of a request."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = None


class VertexRequest(BaseModel):
    """Images, as Vertex AI sends them."""

    model_config = ConfigDict(extra="forbid")

    instances: Annotated[list[Instance], FailFast()]
    parameters: VertexParameters | None = None

    @property
    def top_k(self) -> str | None:
        """As text, as in the query of ``/predict``."""
        given = self.parameters and self.parameters.top_k
        return None if given is None else str(given)


class VertexResponse(BaseModel):
    """What ``/predict`` says of each image, in order."""

    predictions: list[Predictions]


VERTEX_BODY = {
    "required": True,
    "content": {"application/json": {"schema": body_schema(VertexRequest)}},
}


def router(
    contract: Contract,
    pipeline: Pipeline,
    lifecycle: Lifecycle,
    keys: ApiKeys | None,
    side: SideThread,
    *,
    max_images: int,
) -> APIRouter:
    """The two routes of a contract; predictions behind a `Door`.

    Args:
        keys: described in OpenAPI.
        side: decodes large bodies and encodes large answers.
        max_images: in one request.
    """
    routes = APIRouter(tags=["cloud"])

    @routes.get(
        contract.health_route,
        responses={503: {"description": "Do not route to me", "model": Probe}},
    )
    async def cloud_health(response: Response) -> Probe:
        """200 while requests should be routed here."""
        response.status_code = 200 if lifecycle.ready else 503
        return Probe(state=lifecycle.state)

    async def sagemaker(request: Request) -> Response:
        """Classify one image, as ``/predict`` does."""
        return await predict_image(request, pipeline, side)

    async def vertex(request: Request) -> Response:
        """Classify many images: all of them, or none."""
        record: RequestRecord = request.state.record
        read_query(request, instead='send {"parameters": {"top_k": …}} in the body')
        with pipeline.upload() as hold:
            body = await read_body(request, hold, side)
            steps = read_instances(body, max_images)
            asked, images = await in_time(record, side.run(steps, hold, size=len(body)))
            del body, steps
            hold.settle(size_of_all(images))
            top_k = parse_top_k(asked.top_k, pipeline.served.num_classes)
            answers = await while_connected(
                request, pipeline.predict_many(images, top_k, record.deadline, record.timings)
            )
        content = await side.run(write_answers(answers.all()))
        return json_response(content, record)

    def add_prediction(**options: Any) -> Callable[..., Any]:
        return routes.post(contract.predict_route, dependencies=key_scheme(keys), **options)

    if contract.cloud == "sagemaker":
        add_prediction(
            response_model=Predictions,
            responses=problems(*OF_THE_REQUEST, *OF_THE_IMAGE),
            openapi_extra={"parameters": PARAMETERS, "requestBody": REQUEST_BODY},
        )(sagemaker)
    else:
        add_prediction(
            response_model=VertexResponse,
            responses=problems(*OF_THE_REQUEST, *OF_THE_IMAGE, TooManyImages),
            openapi_extra={"parameters": [PATIENCE_PARAMETER], "requestBody": VERTEX_BODY},
        )(vertex)
    return routes


def read_instances(body: bytes, most: int) -> Steps[tuple[VertexRequest, list[bytes]]]:
    """The request and its images.

    Raises:
        BadRequest: the body is not a request, or an image is not base64.
        TooManyImages: there are more than ``most``.
    """
    otherwise = 'the body is not {"instances": [{"b64": "<base64>"}], "parameters": {"top_k": 5}}'
    request, lifted = yield from parse_json(VertexRequest, body, otherwise, rows=most)
    if not request.instances:
        raise BadRequest("there are no instances")
    if len(request.instances) > most:
        raise TooManyImages(
            f"{len(request.instances)} images in one request; at most {most} are accepted"
        )
    images = yield from decode_images([lifted.string(each.b64) for each in request.instances])
    return request, images
