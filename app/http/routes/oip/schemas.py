"""JSON requests and answers of the Open Inference Protocol.

https://github.com/kserve/open-inference-protocol, with Triton's extensions for binary data and
classification. Null means that a member is absent. Unknown members are ignored, because clients add
them, unless they look like a mistake.
"""

import difflib
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError

from app.http.bodies.json_text import Text, restore
from app.http.quoting import quoted

SIMILAR = 0.7  # similarity at which an unknown name counts as misspelt
MAX_UNKNOWN = 16  # unknown members per object
MAX_PARTS = 16  # inputs, and outputs
_TOP_K = ("top_k", "topk", "top-k", "topK")

Parameters = Annotated[dict[str, Any], AfterValidator(restore)]


class Members(BaseModel):
    """An object of the protocol."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _check_unknown(self) -> "Members":
        unknown = {name for name, value in (self.model_extra or {}).items() if value is not None}
        parameters = getattr(self, "parameters", None) or {}
        if top_k := (unknown | parameters.keys()) & {*_TOP_K}:
            raise _mistake(
                f"{min(top_k)} is not part of the protocol; give an output the parameter "
                '{"classification": n} for the best n classes'
            )
        if len(unknown) > MAX_UNKNOWN:
            raise _mistake(f"it has over {MAX_UNKNOWN} unknown members")
        for name in sorted(unknown):
            if close := difflib.get_close_matches(
                name[:80].lower(), type(self).model_fields, n=1, cutoff=SIMILAR
            ):
                raise _mistake(f"unknown member {quoted(name)}; did you mean {close[0]}?")
        return self


class Part(Members):
    """An input or an output."""

    name: Text
    parameters: Parameters | None = None

    def parameter(self, name: str, default: Any = None) -> Any:
        """The value of a parameter; ``default`` if it is absent or null."""
        return parameter(self.parameters, name, default)


class RequestInput(Part):
    """A tensor, in ``data`` or as ``binary_data_size`` bytes after the JSON."""

    shape: Annotated[list[Annotated[int, Field(ge=0, strict=True)]], FailFast()]
    datatype: Text
    data: list[Any] | None = None


class RequestOutput(Part):
    """A requested output.

    The parameter ``classification`` is the number of best classes to return; ``binary_data``
    returns bytes after the JSON.
    """


class InferRequest(Members):
    """The JSON of a request."""

    id: Text | None = None
    parameters: Parameters | None = None
    inputs: Annotated[list[RequestInput], Field(max_length=MAX_PARTS, fail_fast=True)]
    outputs: Annotated[list[RequestOutput], Field(max_length=MAX_PARTS, fail_fast=True)] | None = (
        None
    )


class ResponseOutput(BaseModel):
    """A tensor of the answer."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


def parameter(parameters: dict[str, Any] | None, name: str, default: Any = None) -> Any:
    """The value of a parameter; ``default`` if it is absent or null."""
    value = (parameters or {}).get(name)
    return default if value is None else value


def _mistake(message: str) -> PydanticCustomError:
    return PydanticCustomError("unknown_member", "{message}", {"message": message})
