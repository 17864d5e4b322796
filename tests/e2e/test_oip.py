"""Triton's own client against the real server, unchanged."""

import base64
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoint import BUNDLED_CHECKPOINT, read_checkpoint
from model.families.simplify import baseline
from model.images.preprocess import preprocess
from model.scores import Logits
from tests.server_process import Server

from .conftest import StartServer
from .test_contract import picture

triton = pytest.importorskip("tritonclient.http", reason="the development requirements have it")


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Server:
    return start_server(precision="float32")


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [picture(1, (40, 60), "PNG"), picture(2)]


@pytest.fixture(scope="module")
def expected(pictures: list[bytes]) -> Logits:
    """Logits ``(2, 10)`` of the network as it was trained."""
    found = read_checkpoint(BUNDLED_CHECKPOINT)
    network = baseline(found.build(), found.spec.preprocess)
    pixels = np.stack([preprocess(data, found.spec.preprocess) for data in pictures])
    with torch.inference_mode():
        logits: Logits = network(torch.from_numpy(pixels)).numpy()
    return logits


def images(*contents: bytes, binary: bool = True) -> Any:
    given = triton.InferInput("image", [len(contents)], "BYTES")
    given.set_data_from_numpy(np.array(contents, np.object_), binary_data=binary)
    return given


@pytest.mark.quick
def test_the_client_finds_server_and_models(bundled_server: Server) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{bundled_server.port}") as client:
        check_server_and_models(client)


def check_server_and_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "xcit-serve"
    for model in client.get_model_repository_index():
        assert model["state"] == "READY"
        assert client.is_model_ready(model["name"])
        assert client.is_model_ready(model["name"], model["version"])
        assert not client.is_model_ready(model["name"], "99")
        assert client.get_model_metadata(model["name"])["name"] == model["name"]
        assert client.get_model_config(model["name"], model["version"])["max_batch_size"] > 1
    stats = client.get_inference_statistics()["model_stats"]
    assert [model["name"] for model in stats] == ["xcit", "xcit_tensor"]
    assert not client.is_model_ready("resnet")
    with pytest.raises(triton.InferenceServerException, match="unknown model 'resnet'"):
        client.get_model_metadata("resnet")


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_images_yield_the_networks_logits(
    client: Any, pictures: list[bytes], expected: Any, binary: bool, compression: str | None
) -> None:
    encoded = pictures if binary else [*map(base64.b64encode, pictures)]
    given = images(*encoded, binary=binary)
    result = client.infer(
        "xcit",
        [given],
        outputs=[
            triton.InferRequestedOutput("logits", binary_data=binary),
            triton.InferRequestedOutput("probabilities", binary_data=not binary),
        ],
        request_id="mine",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert result.get_response()["id"] == "mine"
    assert result.as_numpy("logits") == pytest.approx(expected, rel=1e-3, abs=1e-3)
    powers = np.exp(expected)
    softmax = powers / powers.sum(1, keepdims=True)
    assert result.as_numpy("probabilities") == pytest.approx(softmax, abs=1e-4)


def test_normalised_tensors_become_the_same_logits(
    client: Any, pictures: list[bytes], expected: Any
) -> None:
    spec = read_checkpoint(BUNDLED_CHECKPOINT).spec.preprocess
    pixels = np.stack([preprocess(data, spec) for data in pictures]) / 255
    normalised = (pixels - np.array(spec.mean)) / np.array(spec.std)
    tensor = np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), np.float32)
    for binary in (True, False):
        given = triton.InferInput("input", tensor.shape, "FP32")
        given.set_data_from_numpy(tensor, binary_data=binary)
        result = client.infer("xcit_tensor", [given], model_version="1")
        assert result.as_numpy("logits") == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_classification_gives_scores_indices_and_labels(
    client: Any, pictures: list[bytes], expected: Any
) -> None:
    output = triton.InferRequestedOutput("probabilities", class_count=3)
    rows = client.infer("xcit", [images(*pictures)], outputs=[output]).as_numpy("probabilities")
    assert rows.shape == (2, 3)
    labels = read_checkpoint(BUNDLED_CHECKPOINT).spec.labels
    for row, logits in zip(rows, expected, strict=True):
        for text, index in zip(row, np.argsort(-logits)[:3], strict=True):
            score, told, label = text.decode().split(":")
            assert (int(told), label) == (index, labels[index])
            assert 0 <= float(score) <= 1


def test_concurrent_requests_are_counted_in_the_statistics(
    server: Server, pictures: list[bytes]
) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8) as client:
        before = client.get_inference_statistics("xcit")["model_stats"][0]
        pending = [client.async_infer("xcit", [images(*pictures)]) for _ in range(32)]
        for request in pending:
            assert request.get_result().as_numpy("logits").shape == (2, 10)
        after = client.get_inference_statistics("xcit")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 64
    executions = after["execution_count"] - before["execution_count"]
    assert 4 <= executions <= 64


def test_the_client_gets_readable_errors(client: Any, pictures: list[bytes]) -> None:
    def message(*args: Any, **options: Any) -> str:
        with pytest.raises(triton.InferenceServerException) as caught:
            client.infer(*args, **options)
        return str(caught.value)

    assert "none" not in message("xcit", [images(pictures[0], b"rubbish")]).lower()
    assert "not a JPEG, PNG" in message("xcit", [images(pictures[0], b"rubbish")])
    assert "unknown model 'x'" in message("x", [images(pictures[0])])
    assert "unknown version '2'; model xcit has version 1" in message(
        "xcit", [images(pictures[0])], model_version="2"
    )
    output = triton.InferRequestedOutput("scores")
    assert "unknown output" in message("xcit", [images(pictures[0])], outputs=[output])
    tensor = np.full((1, 3, 32, 32), np.nan, np.float32)
    given = triton.InferInput("input", tensor.shape, "FP32")
    given.set_data_from_numpy(tensor)
    assert "the tensor holds nan" in message("xcit_tensor", [given])
    assert "not answered within" in message("xcit", [images(*pictures * 40)], timeout=1)


@pytest.mark.quick
def test_raw_image_can_be_the_whole_body(bundled_server: Server, pictures: list[bytes]) -> None:
    server = bundled_server
    raw = {"Inference-Header-Content-Length": "0"}
    response = server.client.post("/v2/models/xcit/infer", content=pictures[0], headers=raw)
    probabilities = response.json()["outputs"][1]
    best = server.client.post("/predict?top_k=1", content=pictures[0]).json()["predictions"][0]
    assert probabilities["shape"] == [1, 10]
    assert max(probabilities["data"]) == probabilities["data"][best["class_id"]]


def test_images_and_tensors_get_their_own_answers_concurrently(
    server: Server, pictures: list[bytes]
) -> None:
    """Several callers send images and tensors at once."""
    expected = server.client.post("/predict", content=pictures[0]).json()["predictions"]
    wrong: list[Any] = []

    def call() -> None:
        with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            tensor = np.zeros((3, 3, 32, 32), np.float32)
            given = triton.InferInput("input", tensor.shape, "FP32")
            given.set_data_from_numpy(tensor)
            for _ in range(20):
                rows = client.infer("xcit_tensor", [given]).as_numpy("logits")
                if not np.allclose(rows, rows[0], rtol=1e-3, atol=1e-3):
                    wrong.append(rows)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(40):
        found = server.client.post("/predict", content=pictures[0]).json()["predictions"]
        assert [row["class_id"] for row in found] == [row["class_id"] for row in expected]
    for thread in threads:
        thread.join()
    assert not wrong
