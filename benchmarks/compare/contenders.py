"""The servers that are compared: how to start each, what to send, and how to read its answers."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.compare.environments import ROOT, interpreter, packages, versions

BOUNDARY = "benchmark-boundary"


@dataclass(frozen=True, slots=True)
class Contender:
    """A server in one configuration.

    Attributes:
        request: builds the HTTP request for an encoded image.
        classes: reads the classes from a parsed answer, best first.
        reported: packages whose versions the report lists.
        peer: the module that starts it, and its environment; None for this repository's service.
        arguments: command-line arguments in addition to checkpoint and port.
        environment: environment variables.
    """

    name: str
    setup: str
    request: Callable[[bytes], bytes]
    classes: Callable[[Any], list[int]]
    reported: Sequence[str]
    peer: str | None = None
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, checkpoint: Path, port: int) -> list[str]:
        where = [f"--checkpoint={checkpoint.absolute()}", f"--port={port}"]
        if self.peer is None:
            return [sys.executable, "-m", "app", "serve", "--host=127.0.0.1", *where]
        module = f"benchmarks.compare.peers.{self.peer}"
        return [str(interpreter(self.peer)), "-m", module, *where, *self.arguments]

    def variables(self) -> dict[str, str]:
        """The whole environment; outside settings of the service do not reach it."""
        outside = {name: value for name, value in os.environ.items() if name[:5] != "XCIT_"}
        return {**outside, "PYTHONPATH": str(ROOT), **self.environment}

    def versions(self) -> dict[str, str]:
        return versions(self.reported, packages(self.peer))


def http_post(path: str, head: Mapping[str, str], body: bytes) -> bytes:
    lines = {"Host": "benchmark", **head, "Content-Length": str(len(body))}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{text}\r\n".encode() + body


def form(name: str) -> Callable[[bytes], bytes]:
    """Requests with the image as the file ``name`` of a form, as ``curl -F`` sends it."""

    def post_form(image: bytes) -> bytes:
        head = (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="photo.jpg"'
            "\r\nContent-Type: image/jpeg\r\n\r\n"
        )
        body = head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return http_post("/predict", {"Content-Type": kind}, body)

    return post_form


def post_tensor(image: bytes) -> bytes:
    """A request of Triton's protocol with its binary extension: JSON, then the tensor's bytes."""
    tensor = len(image).to_bytes(4, "little") + image
    inputs = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(tensor)},
    }
    outputs = [
        {"name": name, "parameters": {"binary_data": False}}
        for name in ("class_id", "label", "score")
    ]
    text = json.dumps({"inputs": [inputs], "outputs": outputs}).encode()
    head = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(text)),
    }
    return http_post("/v2/models/xcit/infer", head, text + tensor)


def predicted_classes(answer: dict[str, Any]) -> list[int]:
    return row_classes(answer["predictions"])


def row_classes(rows: list[dict[str, Any]]) -> list[int]:
    return [row["class_id"] for row in rows]


def tensor_classes(answer: dict[str, Any]) -> list[int]:
    return next(list(each["data"]) for each in answer["outputs"] if each["name"] == "class_id")


SERVICE = [
    Contender(
        "xcit-serve",
        "default settings",
        form("file"),
        predicted_classes,
        ("fastapi", "uvicorn", "openvino", "torch", "pillow"),
    ),
    Contender(
        "xcit-serve, PyTorch fp32",
        "`XCIT_BACKEND=torch XCIT_PRECISION=float32`",
        form("file"),
        predicted_classes,
        ("fastapi", "uvicorn", "torch", "pillow"),
        environment={"XCIT_BACKEND": "torch", "XCIT_PRECISION": "float32"},
    ),
]
FASTAPI = Contender(
    "fastapi-1",
    "a tutorial's handler: no batching; one worker",
    form("file"),
    predicted_classes,
    ("fastapi", "uvicorn", "torch", "pillow"),
    peer="fastapi_tutorial",
)
PEERS = [
    FASTAPI,
    replace(
        FASTAPI,
        name="fastapi-2",
        setup="a tutorial's handler: no batching; two workers of one thread",
        arguments=["--workers=2"],
    ),
    Contender(
        "litserve",
        "batches of at most 16 within 5 ms; two workers of one thread",
        form("request"),
        predicted_classes,
        ("litserve", "fastapi", "uvicorn", "torch", "pillow"),
        peer="litserve",
    ),
    Contender(
        "bentoml",
        "adaptive batches of at most 16; two workers of one thread",
        form("images"),
        lambda answer: row_classes(answer[0]),
        ("bentoml", "starlette", "uvicorn", "torch", "pillow"),
        peer="bentoml",
    ),
    Contender(
        "triton",
        "PyTriton: batches of at most 16 within 5 ms; two instances of one thread",
        post_tensor,
        tensor_classes,
        ("nvidia-pytriton", "torch", "numpy", "pillow"),
        peer="triton",
    ),
]
