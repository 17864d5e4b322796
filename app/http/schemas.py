"""The bodies of requests and answers, as Pydantic models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.http.bodies.json_text import Text
from app.serving.classifier import ModelInfo
from app.serving.engines import EngineProgress

PIXEL = (  # the base64 of an image of one pixel, for examples
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP438AAAAQBAYD718vxAAAAAElFTkSuQmCC"
)


class Problem(BaseModel):
    """An error, in the format of RFC 9457."""

    type: Annotated[str, Field(examples=["/problems/invalid-image"])]
    title: str
    status: int
    detail: Annotated[str, Field(description="What was wrong, and what would be right.")]
    instance: str
    request_id: str


def check_number(value: Any) -> Any:
    """Accept whole numbers, which JSON may write as 2.0, and text that may hold one."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool | float | list | dict):
        raise ValueError("must be a whole number")
    return value


Number = Annotated[int | Text, BeforeValidator(check_number)]


class JsonImage(BaseModel):
    """An image and parameters; null means that a parameter is absent."""

    model_config = ConfigDict(extra="forbid")

    image: Annotated[str, Field(description="Base64 or base64url, or a data: URI.")]

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """The names of the parameters, in JSON and in a form."""
        return tuple(name for name in cls.model_fields if name != "image")

    def values(self) -> dict[str, str]:
        """The parameters that are present, as text, as in a query."""
        values = {name: getattr(self, name) for name in self.parameters()}
        return {name: str(value) for name, value in values.items() if value is not None}


class ImageToPredict(JsonImage):
    """An image to classify."""

    top_k: Annotated[Number | None, Field(description="Number of classes to return.")] = None


class ImageToExplain(JsonImage):
    """An image to explain."""

    head: Annotated[Number | None, Field(description="Number of an attention head, or mean.")] = (
        None
    )


class Model(BaseModel):
    """The model that classified the image."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    version: str


class PredictionRow(BaseModel):
    """A class with its probability, and its WordNet synset if known."""

    model_config = ConfigDict(from_attributes=True)

    class_id: int
    label: str
    score: float
    synset: str | None = None


class Predictions(BaseModel):
    """The best classes of an image, highest score first."""

    model_config = ConfigDict(from_attributes=True)

    model: Model
    predictions: list[PredictionRow]


class BatchResult(BaseModel):
    """The best classes of one image, or its error."""

    filename: str | None = None
    predictions: list[PredictionRow] | None = None
    error: Problem | None = None


class BatchPredictions(BaseModel):
    """Results in the order of the images."""

    model: Model
    results: list[BatchResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadedModel(ModelInfo):
    """The model that is served after a reload, and the model that it replaced."""

    replaced: Model


class Health(BaseModel):
    """The state of the service."""

    alive: bool
    ready: bool
    state: str
    failure: str | None
    model: ModelInfo | None
    engines: Annotated[
        Sequence[EngineProgress], Field(description="One per device; empty while they load.")
    ]
    http_workers: Annotated[
        int, Field(description="Processes for HTTP and decoding; 0: one process does everything.")
    ]
    http_workers_reason: str
    queue_depth: int
    images_total: Annotated[int, Field(description="Images classified since the start.")]
    batches_total: int


class Probe(BaseModel):
    """The state of the process."""

    state: str


def image_body(form: type[JsonImage]) -> dict[str, Any]:
    """The OpenAPI description of a body with one image.

    It leaves out the form fields for the parameters of ``form``, which the query describes:
    Swagger UI sends every field, and would send them twice.
    """
    binary = {"schema": {"type": "string", "format": "binary"}}
    file = {"type": "object", "required": ["file"], "properties": {"file": binary["schema"]}}
    json = {"schema": body_schema(form), "example": {"image": PIXEL}}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": file},
            "application/json": json,
            "image/*": binary,
            "application/octet-stream": binary,
        },
    }


def body_schema(body: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a body for the OpenAPI document, with its definitions inlined."""
    schema = body.model_json_schema()
    definitions = schema.pop("$defs", {})

    def in_place(part: Any) -> Any:
        match part:
            case {"$ref": str(reference)}:
                return in_place(definitions[reference.rpartition("/")[2]])
            case dict():
                return {name: in_place(value) for name, value in part.items()}
            case list():
                return [in_place(value) for value in part]
        return part

    return dict(in_place(schema))
