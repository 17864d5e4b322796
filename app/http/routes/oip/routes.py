"""The Open Inference Protocol, version 2, for clients of Triton and KServe.

The classifier is presented as two models: ``xcit`` takes encoded images, and ``xcit_tensor`` takes
decoded, resized and normalised pixels. Both share batches with ``/predict``.
"""

from fastapi import APIRouter

from app.http.routes.oip.inference import add_inference
from app.http.routes.oip.metadata import add_model_metadata, add_server_metadata
from app.http.routes.oip.models import Models
from app.http.service import Service


def router(service: Service) -> APIRouter:
    routes = APIRouter(tags=["open inference protocol"], prefix="/v2")
    models = Models(service.pipeline)
    add_server_metadata(routes, service, models)
    add_model_metadata(routes, service, models)
    add_inference(routes, service, models)
    return routes
