"""The models of the Open Inference Protocol, and routes with a model's name."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fastapi import Request

from app.http.problems import problems
from app.http.quoting import quoted
from app.http.routes.oip.statistics import Statistics
from app.http.routes.oip.tensors import Signature
from app.serving.classifier import ModelInfo
from app.serving.errors import Draining, NotReady, ServiceError, UnknownModel
from app.serving.pipeline import Pipeline

NO_EXTRAS: Mapping[str, Any] = MappingProxyType({})
MODEL_ERRORS = (UnknownModel, NotReady, Draining)
MODEL = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "example": "xcit",
}
VERSION = {**MODEL, "name": "version", "example": "1"}


class Models:
    """Presents the classifier as the models of the protocol, with their statistics."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.statistics: dict[str, Statistics] = defaultdict(Statistics)

    def find(self, request: Request) -> tuple[Signature, ModelInfo]:
        """The model that a request's path names.

        Raises:
            UnknownModel: the model or the version does not exist.
            NotReady, Draining: no model is served.
        """
        name, version = request.path_params["name"], request.path_params.get("version")
        info = self._pipeline.served
        models = signatures(info)
        if name not in models:
            raise UnknownModel(f"unknown model {quoted(name)}; the models are {', '.join(models)}")
        if version not in (None, info.version):
            raise UnknownModel(
                f"unknown version {quoted(version)}; model {name} has version {info.version}"
            )
        return models[name], info

    def all_statistics(self) -> list[dict[str, Any]]:
        """The statistics of every model; raises as `find` does."""
        info = self._pipeline.served
        return [self.statistics_of(name, info) for name in signatures(info)]

    def statistics_of(self, name: str, info: ModelInfo) -> dict[str, Any]:
        """A model's statistics. Inference and execution counts include all APIs."""
        progress = self._pipeline.progress
        return {
            "name": name,
            "version": info.version,
            "last_inference": self.statistics[name].last,
            "inference_count": progress.images,
            "execution_count": progress.batches,
            "inference_stats": self.statistics[name].durations,
            "batch_stats": [],
        }


def signatures(info: ModelInfo) -> dict[str, Signature]:
    """The models by name."""
    pixels = (3, info.image_size, info.image_size)
    models = (
        Signature("xcit", "image", "BYTES", ((1,), ())),
        Signature("xcit_tensor", "input", "FP32", (pixels,)),
    )
    return {model.name: model for model in models}


def below_model(
    add: Callable[..., Any],
    path: str,
    *errors: type[ServiceError],
    openapi_extra: Mapping[str, Any] = NO_EXTRAS,
    **options: Any,
) -> Callable[..., Any]:
    """Add an endpoint below a model's name, with and without a version.

    Args:
        add: a method of a router, such as ``routes.get``.
        openapi_extra: the argument of FastAPI; path parameters are added.
    """

    def decorate(endpoint: Callable[..., Any]) -> Callable[..., Any]:
        for prefix, in_path in (
            ("/models/{name}", [MODEL]),
            ("/models/{name}/versions/{version}", [MODEL, VERSION]),
        ):
            parameters = [*in_path, *openapi_extra.get("parameters", ())]
            add(
                prefix + path,
                responses=problems(*dict.fromkeys((*MODEL_ERRORS, *errors))),
                openapi_extra={**openapi_extra, "parameters": parameters},
                **options,
            )(endpoint)
        return endpoint

    return decorate
