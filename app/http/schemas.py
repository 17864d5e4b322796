"""What goes over the wire, in and out."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.http.bodies.json_text import Text
from app.serving.classifier import ModelInfo

PIXEL = (  # the base64 of an image of one pixel, for examples
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP438AAAAQBAYD718vxAAAAAElFTkSuQmCC"
)


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: Annotated[str, Field(examples=["/problems/invalid-image"])]
    title: str
    status: int
    detail: Annotated[str, Field(description="What was wrong, and what would be right.")]
    instance: str
    request_id: str


def check_number(value: Any) -> Any:
    """A whole number, or text that may hold one; JSON writes one as 2 or 2.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool | float | list | dict):
        raise ValueError("must be a whole number")
    return value


Number = Annotated[int | Text, BeforeValidator(check_number)]


class JsonImage(BaseModel):
    """An image as JSON, with parameters beside it; a parameter that is null is absent."""

    model_config = ConfigDict(extra="forbid")

    image: Annotated[str, Field(description="Base64 or base64url, or a data: URI.")]

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Names of the parameters that may stand beside the image, here and in a form."""
        return tuple(name for name in cls.model_fields if name != "image")

    def given(self) -> dict[str, str]:
        """The parameters that are given, as text, as they are in a query."""
        given = {name: getattr(self, name) for name in self.parameters()}
        return {name: str(value) for name, value in given.items() if value is not None}


class ImageToPredict(JsonImage):
    """An image to classify."""

    top_k: Annotated[Number | None, Field(description="How many classes to answer.")] = None


class ImageToExplain(JsonImage):
    """An image to explain."""

    head: Annotated[Number | None, Field(description="A head's number, or mean.")] = None


class Model(BaseModel):
    """Which model answered."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    version: str


class PredictionRow(BaseModel):
    """One class; the score is a softmax probability, the synset WordNet's id where it is known."""

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
    """What became of one image: its best classes, or the error that it met."""

    filename: str | None = None
    predictions: list[PredictionRow] | None = None
    error: Problem | None = None


class BatchPredictions(BaseModel):
    """Results in the order of the images."""

    model: Model
    results: list[BatchResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadedModel(ModelInfo):
    """The model that serves after a reload, and the one that it replaced."""

    replaced: Model


class Health(BaseModel):
    """Everything a person wants to know at a glance."""

    alive: bool
    ready: bool
    state: str
    failure: str | None
    model: ModelInfo | None
    queue_depth: int
    images_total: Annotated[int, Field(description="Classified since the start.")]
    batches_total: int


class Probe(BaseModel):
    """The answer of a probe."""

    state: str


def image_body(form: type[JsonImage]) -> dict[str, Any]:
    """OpenAPI's description of a body with one image.

    The parameters of ``form`` are described for the query alone: a page that fills in every field
    would otherwise send them twice.
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
    """The JSON schema of a body that is not read by FastAPI, for the OpenAPI document.

    In one piece: what it refers to among its own definitions would not be found there.
    """
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
