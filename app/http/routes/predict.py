"""``POST /predict`` classifies one image, ``POST /predict/batch`` many."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.http.answers import write_answer, write_results
from app.http.bodies.body import ImageReader, merge
from app.http.parameters import PARAMETERS, parse_top_k, read_query
from app.http.policy import policy
from app.http.problems import IMAGE_ERRORS, REQUEST_ERRORS, problems
from app.http.schemas import BatchPredictions, ImageToPredict, Predictions, image_body
from app.http.service import Service
from app.http.timeouts import while_connected
from app.observability.record import RequestRecord
from app.serving.errors import TooManyImages

REQUEST_BODY = image_body(ImageToPredict)
BATCH_REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                    }
                },
            }
        },
    },
}


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["predict"])
    pipeline, side_thread = service.pipeline, service.side_thread

    @routes.post(
        "/predict",
        response_model=Predictions,
        responses=problems(*REQUEST_ERRORS, *IMAGE_ERRORS),
        openapi_extra={"parameters": PARAMETERS, "requestBody": REQUEST_BODY},
    )
    @policy(admission=True)
    async def predict(request: Request) -> Response:
        """Classify one image: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC."""
        return await predict_image(request, service)

    @routes.post(
        "/predict/batch",
        response_model=BatchPredictions,
        responses=problems(*REQUEST_ERRORS, TooManyImages),
        openapi_extra={"parameters": PARAMETERS, "requestBody": BATCH_REQUEST_BODY},
    )
    @policy(admission=True)
    async def predict_batch(request: Request) -> Response:
        """Classify many images, one per part of a form; each fails alone."""
        record: RequestRecord = request.state.record
        query = read_query(request, "top_k")
        parse_top_k(query.get("top_k"), pipeline.served.num_classes)  # before the body is read
        with pipeline.upload() as hold:
            images = await ImageReader(request, hold, side_thread).many(
                ("top_k",), service.settings.max_queue_size
            )
            parameters = merge(query, images.parameters)
            top_k = parse_top_k(parameters.get("top_k"), pipeline.served.num_classes)
            answers = await while_connected(
                request,
                pipeline.predict_many(
                    [part.content for part in images.parts], top_k, record.deadline, record.timings
                ),
            )
        answers.raise_if_service_failed()
        names = [part.filename for part in images.parts]
        results = [*zip(names, answers.outcomes, strict=True)]
        content = await side_thread.run(write_results(answers.model, results, record))
        return json_response(content, record)

    return routes


async def predict_image(request: Request, service: Service) -> Response:
    """The answer to a request with one image."""
    pipeline, side_thread = service.pipeline, service.side_thread
    record: RequestRecord = request.state.record
    query = read_query(request, "top_k")
    top_k = parse_top_k(query.get("top_k"), pipeline.served.num_classes)  # before the body is read
    with pipeline.upload() as hold:
        image, parameters = await ImageReader(request, hold, side_thread).one(ImageToPredict)
        if parameters:
            top_k = parse_top_k(merge(query, parameters)["top_k"], pipeline.served.num_classes)
        answer = await while_connected(
            request, pipeline.predict(image, top_k, record.deadline, record.timings)
        )
    return json_response(await write_answer(answer, side_thread), record)


def json_response(content: bytes, record: RequestRecord) -> Response:
    return Response(
        content,
        media_type="application/json",
        headers={"Server-Timing": record.timings.server_timing()},
    )
