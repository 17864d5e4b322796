"""Requests and answers of the Open Inference Protocol as JSON.

https://github.com/kserve/open-inference-protocol, with Triton's extensions for binary data and
classification. A member that is null is absent, as the protocol's clients write it. A member that
the protocol does not have is ignored, as clients add their own, unless it looks like a mistake.
"""

import difflib
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError

from app.http.bodies.json_text import Text, restore
from app.http.quoting import quoted

NEAR = 0.7  # similarity from which on an unknown name is taken for a misspelled one
MOST_UNKNOWN = 16  # members of an object that the protocol does not have
MOST_PARTS = 16  # inputs, and outputs
_TOP_K = ("top_k", "topk", "top-k", "topK")

Parameters = Annotated[dict[str, Any], AfterValidator(restore)]


class Members(BaseModel):
    """An object of the protocol."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _check_unknown(self) -> "Members":
        unknown = {name for name, value in (self.model_extra or {}).items() if value is not None}
        parameters = getattr(self, "parameters", None) or {}
        if asked := (unknown | parameters.keys()) & {*_TOP_K}:
            raise _mistake(
                f"{min(asked)} is not read here; give an output the parameter "
                '{"classification": n} for the best n classes'
            )
        if len(unknown) > MOST_UNKNOWN:
            raise _mistake(f"it has over {MOST_UNKNOWN} members that the protocol does not have")
        for name in sorted(unknown):
            if close := difflib.get_close_matches(
                name[:80].lower(), type(self).model_fields, n=1, cutoff=NEAR
            ):
                raise _mistake(f"unknown member {quoted(name)}; did you mean {close[0]}?")
        return self


class Part(Members):
    """What inputs and outputs have in common."""

    name: Text
    parameters: Parameters | None = None

    def parameter(self, name: str, default: Any = None) -> Any:
        """The value of a parameter; ``default`` where it is absent or null."""
        return parameter(self.parameters, name, default)


class RequestInput(Part):
    """A tensor; its ``data`` is absent where ``binary_data_size`` bytes follow the JSON."""

    shape: Annotated[list[Annotated[int, Field(ge=0, strict=True)]], FailFast()]
    datatype: Text
    data: list[Any] | None = None


class RequestOutput(Part):
    """A requested output.

    ``classification`` asks for that many of the best classes, ``binary_data`` for bytes behind the
    JSON.
    """


class InferRequest(Members):
    """The JSON of a request."""

    id: Text | None = None
    parameters: Parameters | None = None
    inputs: Annotated[list[RequestInput], Field(max_length=MOST_PARTS, fail_fast=True)]
    outputs: Annotated[list[RequestOutput], Field(max_length=MOST_PARTS, fail_fast=True)] | None = (
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
    """The value of a parameter; ``default`` where it is absent or null."""
    value = (parameters or {}).get(name)
    return default if value is None else value


def _mistake(message: str) -> PydanticCustomError:
    return PydanticCustomError("unknown_member", "{message}", {"message": message})
