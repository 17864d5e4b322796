"""Record requests by the clients of KServe and MLServer, and answers that they can read.

    python scripts/golden_clients.py

installs both clients in a temporary directory, without their dependencies, and writes
``tests/app/golden/clients.json``. It fails if the service does not answer a request, or if the
client's own class cannot read the answer.
"""

import asyncio
import base64
import importlib.abc
import importlib.machinery
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.app.conftest import FakeClassifier, running

OUTPUT = Path(__file__).parent.parent / "tests" / "app" / "golden" / "clients.json"
PACKAGES = ("kserve==0.21.0", "mlserver==1.7.1", "orjson==3.11.9")
HEADER_LENGTH = "Inference-Header-Content-Length"
IMAGES = [b"3", b"7"]  # the fake classifier gives classes 3 and 7 for these
TEXTS = [base64.b64encode(image).decode() for image in IMAGES]
TENSOR = np.array([[3] + [0] * 11, [7] + [0] * 11], np.float32).reshape(2, 3, 2, 2)


class StandIn(ModuleType):
    """A stand-in for a module that is not installed, with any attribute."""

    __path__: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Provides stand-ins for all modules that are not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def install(target: str) -> None:
    """Install the two clients and stand-ins for the unrelated packages that they import."""
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target)
    subprocess.run([*pip, *PACKAGES], check=True)
    sys.path.append(target)
    sys.meta_path.append(StandInFinder())
    for name in ("kserve", "kserve.protocol.grpc", "mlserver"):
        package = ModuleType(name)
        package.__path__ = [str(Path(target, *name.split(".")))]
        sys.modules[name] = package
    sys.modules["kserve.protocol.grpc.grpc_predict_v2_pb2"] = StandIn("pb2")


def kserve_requests() -> dict[str, tuple[str, bytes, dict[str, str]]]:
    """Model, body and headers of each request, by name."""
    import orjson
    from kserve.protocol.infer_type import InferInput, InferRequest, RequestedOutput

    def images(*, binary: bool) -> Any:
        given = InferInput("image", [2], "BYTES", None if binary else TEXTS)
        if binary:
            given.set_data_from_numpy(np.array(IMAGES, np.object_), binary_data=True)
        return given

    def tensor(*, binary: bool) -> Any:
        given = InferInput("input", [2, 3, 2, 2], "FP32")
        given.set_data_from_numpy(TENSOR, binary_data=binary)
        return given

    def rest(model: str, given: Any, **more: Any) -> tuple[str, bytes, dict[str, str]]:
        body, length = InferRequest(model, [given], request_id="7", **more).to_rest()
        if length is None:
            return model, orjson.dumps(body), {"content-type": "application/json"}
        return model, body, {"content-type": "application/octet-stream", HEADER_LENGTH: str(length)}

    best = [RequestedOutput("probabilities", {"classification": 2})]
    behind = [RequestedOutput("probabilities", {"binary_data": True})]
    as_dict = InferRequest("xcit", [images(binary=False)], request_id="7").to_dict()
    return {
        "images": rest("xcit", images(binary=False)),
        "images, binary": rest("xcit", images(binary=True)),
        "images with a version": rest("xcit", images(binary=False), model_version="3"),
        "images, classified": rest("xcit", images(binary=False), request_outputs=best),
        "images, output behind": rest("xcit", images(binary=True), request_outputs=behind),
        "images, all behind": rest(
            "xcit", images(binary=True), parameters={"binary_data_output": True}
        ),
        "images of to_dict": ("xcit", orjson.dumps(as_dict), {"content-type": "application/json"}),
        "tensor": rest("xcit_tensor", tensor(binary=False)),
        "tensor, binary": rest("xcit_tensor", tensor(binary=True)),
    }


def mlserver_requests() -> dict[str, tuple[str, bytes, dict[str, str]]]:
    """Model, body and headers of each request, by name."""
    from mlserver.codecs.base64 import Base64Codec
    from mlserver.codecs.numpy import NumpyCodec
    from mlserver.types.dataplane import InferenceRequest, Parameters, RequestInput, RequestOutput

    def typed(request: Any) -> dict[str, tuple[str, bytes, dict[str, str]]]:
        headers = {"content-type": "application/json"}
        model = "xcit" if request.inputs[0].name == "image" else "xcit_tensor"
        return {
            "model_dump_json": (model, request.model_dump_json().encode(), headers),
            "dict": (model, json.dumps(request.dict()).encode(), headers),
        }

    plain = RequestInput(name="image", shape=[2], datatype="BYTES", data=TEXTS)
    best = RequestOutput(name="probabilities", parameters=Parameters(classification=2))
    context = Parameters(content_type="base64", headers={"traceparent": "00-" + "0" * 200})
    requests = {
        "images": InferenceRequest(inputs=[plain]),
        "images, classified": InferenceRequest(id="7", inputs=[plain], outputs=[best]),
        "images with headers": InferenceRequest(parameters=context, inputs=[plain]),
        "images of the codec": InferenceRequest(
            inputs=[Base64Codec.encode_input("image", IMAGES, use_bytes=False)]
        ),
        "tensor of the codec": InferenceRequest(inputs=[NumpyCodec.encode_input("input", TENSOR)]),
    }
    return {
        f"{name}, {how}": request
        for name, written in requests.items()
        for how, request in typed(written).items()
    }


def read_as_kserve(answer: httpx.Response) -> list[Any]:
    """The outputs as arrays."""
    from kserve.protocol.infer_type import InferResponse

    if length := answer.headers.get(HEADER_LENGTH):
        response = InferResponse.from_bytes(answer.content, int(length))
    else:
        response = InferResponse.from_rest(answer.json())
    assert response.id in ("7", None)
    return [output.as_numpy() for output in response.outputs]


def read_as_mlserver(answer: httpx.Response) -> list[Any]:
    """The outputs as arrays."""
    from mlserver.types.dataplane import InferenceResponse

    response = InferenceResponse.model_validate(answer.json())
    return [np.array(output.data.root).reshape(output.shape) for output in response.outputs]


async def record() -> list[dict[str, Any]]:
    """Each request with the JSON of its answer, which the client that made it has read."""
    clients: dict[str, tuple[Any, Callable[[httpx.Response], list[Any]]]] = {
        "kserve": (kserve_requests(), read_as_kserve),
        "mlserver": (mlserver_requests(), read_as_mlserver),
    }
    found = []
    async with running(FakeClassifier()) as (client, _):
        for library, (requests, read) in clients.items():
            for name, (model, body, headers) in requests.items():
                url = f"/v2/models/{model}/infer"
                answer = await client.post(url, content=body, headers=headers)
                assert answer.is_success, (library, name, answer.text)
                arrays = read(answer)
                print(library, name, [array.shape for array in arrays], flush=True)
                length = int(answer.headers.get(HEADER_LENGTH, len(answer.content)))
                found.append(
                    {"client": library, "request": name, "url": url, "headers": headers}
                    | {"body": base64.b64encode(body).decode()}
                    | {"answer": json.loads(answer.content[:length])}
                )
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as target:
        install(target)
        found = asyncio.run(record())
    OUTPUT.parent.mkdir(exist_ok=True)
    written = {"packages": PACKAGES, "requests": found}
    OUTPUT.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
