"""Requests and answers of the Open Inference Protocol."""

import base64
import json
import struct
from typing import Any

import httpx

INFER = "/v2/models/xcit/infer"

INFER_TENSOR = "/v2/models/xcit_tensor/infer"


def error(response: httpx.Response, status: int) -> str:
    """Check an error document, and return its message."""
    assert response.status_code == status, response.text
    body = response.json()
    assert body["error"] == body["detail"]
    assert body["status"] == status
    return str(body["error"])


def elements(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


def images(*contents: bytes, shape: list[Any] | None = None, **changes: Any) -> dict[str, Any]:
    """An input with images, as JSON."""
    data = [base64.b64encode(content).decode() for content in contents]
    shape = [len(data)] if shape is None else shape
    return {"name": "image", "shape": shape, "datatype": "BYTES", "data": data} | changes


def tensor(*numbers: Any, shape: list[int] | None = None, **changes: Any) -> dict[str, Any]:
    shape = [len(numbers) // 12, 3, 2, 2] if shape is None else shape
    return {"name": "input", "shape": shape, "datatype": "FP32", "data": [*numbers]} | changes


def binary(
    tensor_input: dict[str, Any], content: bytes, size: Any = None, **more: Any
) -> dict[str, Any]:
    """A request whose input follows the JSON."""
    tensor_input = {name: value for name, value in tensor_input.items() if name != "data"}
    tensor_input["parameters"] = {"binary_data_size": len(content) if size is None else size}
    header = json.dumps({"inputs": [tensor_input], **more}).encode()
    length = {"Inference-Header-Content-Length": str(len(header))}
    return {"content": header + content, "headers": length}


def request_of(*inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"json": {"inputs": [*inputs], **more}}


TWO = images(b"1", b"2")
