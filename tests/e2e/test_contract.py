"""The HTTP contract between a real client and the real server with the bundled checkpoint."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from model.checkpoint import BUNDLED_CHECKPOINT
from model.inference.classifier import load_classifier
from tests.pictures import bomb
from tests.server_process import Server, free_port

from .conftest import StartServer


def picture(seed: int = 0, size: tuple[int, int] = (120, 90), image_format: str = "JPEG") -> bytes:
    noise = Image.effect_noise(size, 40 + seed)
    image = Image.merge("RGB", (noise, noise.rotate(90).resize(size), noise.rotate(180)))
    buffer = io.BytesIO()
    image.save(buffer, image_format)
    return buffer.getvalue()


@pytest.fixture
def server(bundled_server: Server) -> Server:
    return bundled_server


@pytest.mark.quick
def test_answer_matches_the_classifier(server: Server) -> None:
    data = picture()
    classifier = load_classifier(BUNDLED_CHECKPOINT)
    classifier.backend.open()
    (expected,) = classifier.predict([classifier.preprocess(data)], 3)
    bodies: list[dict[str, Any]] = [
        {"files": {"file": ("photo.txt", data, "text/plain")}},
        {"content": data, "headers": {"content-type": "image/png"}},
        {"content": data, "headers": {"content-type": "application/octet-stream"}},
        {"json": {"image": base64.b64encode(data).decode()}},
        {"json": {"image": "data:image/gif;base64," + base64.b64encode(data).decode()}},
    ]
    for body in bodies:
        response = server.client.post("/predict?top_k=3", **body)
        assert response.status_code == 200, response.text
        assert response.headers["x-request-id"]
        answer = response.json()
        assert answer["model"]["name"] == "xcit-cifar10"
        for row, wanted in zip(answer["predictions"], expected.predictions, strict=True):
            assert (row["class_id"], row["label"]) == (wanted.class_id, wanted.label)
            assert row["score"] == pytest.approx(wanted.score, rel=1e-3)


def endless() -> Iterator[bytes]:
    """A body of 40 MiB without a declared length."""
    for _ in range(40):
        yield b"x" * 2**20


OCTETS = {"content-type": "application/octet-stream"}
REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "truncated": ({"content": picture()[:2000]}, 400, "invalid-image"),
    "corrupt": (
        {"content": picture(image_format="PNG")[:200] + bytes(5000)},
        *(400, "invalid-image"),
    ),
    "bomb of 50 megapixels": ({"content": bomb(7072)}, 413, "image-too-large"),
    "bomb of 10 gigapixels": ({"content": bomb(100_000)}, 413, "image-too-large"),
    "wrong type": ({"content": b"%PDF-1.7 ..."}, 415, "unsupported-media-type"),
    "empty": ({"content": b""}, 400, "bad-request"),
    "no body": ({}, 400, "bad-request"),
    "two images": (
        {"files": [("file", picture()), ("file", picture())]},
        *(400, "bad-request"),
    ),
    "no image": ({"files": {"other": b"x"}}, 400, "bad-request"),
    "broken base64": ({"json": {"image": "%%%"}}, 400, "bad-request"),
    "broken json": (
        {"content": b"{", "headers": {"content-type": "application/json"}},
        *(400, "bad-request"),
    ),
    "malformed multipart": (
        {"content": b"--y", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        *(400, "bad-request"),
    ),
    "huge, declared": ({"content": bytes(21 * 2**20)}, 413, "body-too-large"),
    "huge, without a length": ({"content": endless}, 413, "body-too-large"),
    **{
        f"top_k = {top_k}": (
            {"content": picture(), "params": {"top_k": top_k}},
            *(422, "invalid-parameter"),
        )
        for top_k in ("0", "-1", "1000000000", "abc")
    },
}


@pytest.mark.parametrize(("body", "status", "problem"), REFUSED.values(), ids=REFUSED)
def test_every_row_of_the_error_table(
    server: Server, body: dict[str, Any], status: int, problem: str
) -> None:
    body = {name: value() if callable(value) else value for name, value in body.items()}
    body.setdefault("headers", OCTETS if "content" in body else None)
    response = server.client.post("/predict", **body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == f"/problems/{problem}"
    assert server.client.post("/predict", content=picture()).status_code == 200


@pytest.mark.quick
def test_one_corrupt_image_among_31_good_ones_fails_alone(server: Server) -> None:
    bodies = [picture(seed) for seed in range(31)]
    bodies.insert(13, picture()[:1000])
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda body: server.client.post("/predict", content=body), bodies))
    codes = [answer.status_code for answer in answers]
    assert codes.pop(13) == 400
    assert codes == [200] * 31


def test_expect_continue_is_refused_before_the_body_is_sent(server: Server) -> None:
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.quick
def test_no_request_is_left_in_the_queue(server: Server) -> None:
    metrics = server.client.get("/metrics").text
    assert "xcit_inflight_requests 0.0" in metrics
    assert "xcit_queue_depth 0.0" in metrics


@pytest.mark.quick
def test_batch_answers_match_single_answers(server: Server) -> None:
    pictures = [
        picture(seed, image_format=kind) for seed, kind in enumerate(("JPEG", "PNG", "BMP"))
    ]
    forms = [("file", (f"{i}", data, "image/x")) for i, data in enumerate([*pictures, b"rubbish"])]
    answer = server.client.post("/predict/batch?top_k=3", files=forms).json()
    *results, rubbish = answer["results"]
    assert rubbish["error"]["status"] == 415
    for data, result in zip(pictures, results, strict=True):
        alone = server.post(data).json()["predictions"][:3]
        rows = result["predictions"]
        assert [row["class_id"] for row in rows] == [row["class_id"] for row in alone]
        assert [r["score"] for r in rows] == pytest.approx([r["score"] for r in alone], abs=0.02)


@pytest.mark.quick
def test_explanation_is_an_image_of_the_crop(server: Server) -> None:
    heads = server.client.get("/healthz").json()["model"]["heads"]
    found = set()
    for head in ("mean", *range(heads)):
        response = server.client.post(f"/explain?head={head}", content=picture())
        assert response.headers["content-type"] == "image/png", response.text
        with Image.open(io.BytesIO(response.content)) as image:
            assert image.size == (448, 448)
        found.add(response.content)
    assert len(found) == heads + 1
    assert server.client.post("/explain", content=b"rubbish").status_code == 415


def test_vertex_ai_variables_configure_the_service(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    for name, value in {
        "AIP_HTTP_PORT": str(port),
        "AIP_HEALTH_ROUTE": "/health",
        "AIP_PREDICT_ROUTE": "/v1/models/m:predict",
    }.items():
        monkeypatch.setenv(name, value)
    server = start_server(port=port, cloud="vertex")
    assert server.client.get("/health").status_code == 200
    data = picture()
    body = {"instances": [{"b64": base64.b64encode(data).decode()}]}
    answer = server.client.post("/v1/models/m:predict", json=body).json()
    assert answer["predictions"] == [server.post(data).json()]
