"""The service on an NVIDIA GPU; skipped without one."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from model.checkpoint import BUNDLED_CHECKPOINT, read_checkpoint
from model.images.preprocess import preprocess
from tests.server_process import Server

from .conftest import StartServer
from .test_contract import picture

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

PICTURES = [picture(size=(40 + n, 60 - n)) for n in range(8)]
RELOADS = 7
COMPILE_PATIENCE = 240.0  # seconds for three batch sizes


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Iterator[Server]:
    server = start_server(device="cuda", admin_token="secret", max_batch_size=8)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def exact(start_server: StartServer) -> Iterator[Server]:
    """The same model in 32-bit PyTorch on the CPU."""
    server = start_server(device="cpu", backend="torch", precision="float32", streams=1)
    yield server
    assert server.stop() == 0


def predictions(server: Server, image: bytes) -> list[dict[str, Any]]:
    answer = server.client.post("/predict?top_k=10", content=image)
    assert answer.status_code == 200, answer.text
    return sorted(answer.json()["predictions"], key=lambda row: row["class_id"])


def test_healthz_names_the_gpu_backend(server: Server) -> None:
    model = server.client.get("/healthz").json()["model"]
    assert (model["device"], model["backend"]) == ("cuda", "torch-cudagraphs")
    assert model["streams"] == 2


def test_gpu_answers_match_the_cpu(server: Server, exact: Server) -> None:
    for image in PICTURES:
        for found, expected in zip(
            predictions(server, image), predictions(exact, image), strict=True
        ):
            assert found["score"] == pytest.approx(expected["score"], abs=0.04)


def test_tensor_gets_the_answer_of_its_image(server: Server) -> None:
    spec = read_checkpoint(BUNDLED_CHECKPOINT).spec
    for image in PICTURES:
        pixels = preprocess(image, spec.preprocess)
        tensor = (pixels / 255 - spec.preprocess.mean) / spec.preprocess.std
        answer = server.client.post(
            "/v2/models/xcit_tensor/infer",
            content=tensor.transpose(2, 0, 1).astype("<f4").tobytes(),
            headers={"Inference-Header-Content-Length": "0"},
        )
        assert answer.status_code == 200, answer.text
        outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
        expected = [row["score"] for row in predictions(server, image)]
        assert outputs["probabilities"] == pytest.approx(expected, abs=0.01)


def test_gpu_explanations_match_the_cpu(server: Server, exact: Server) -> None:
    for image in PICTURES[:2]:
        drawn, expected = (each.client.post("/explain", content=image) for each in (server, exact))
        assert drawn.status_code == 200, drawn.text
        assert drawn.content == expected.content
    before, after = predictions(server, PICTURES[0]), predictions(exact, PICTURES[0])
    assert [row["score"] for row in before] == pytest.approx(
        [row["score"] for row in after], abs=0.04
    )


def test_callers_share_batches_and_get_their_own_answers(server: Server) -> None:
    alone = [predictions(server, image) for image in PICTURES]

    def ask(number: int) -> None:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            for turn in range(20):
                which = (number + turn) % len(PICTURES)
                rows = client.post("/predict?top_k=10", content=PICTURES[which]).json()
                scores = {row["class_id"]: row["score"] for row in rows["predictions"]}
                assert scores == pytest.approx(
                    {row["class_id"]: row["score"] for row in alone[which]}, abs=0.01
                )

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(32)))
    text = server.client.get("/metrics").text
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    assert float(samples["xcit_batch_size_sum"]) > 1.5 * float(samples["xcit_batch_size_count"])


def test_reloads_leak_no_device_memory(server: Server) -> None:
    free = []
    for _ in range(RELOADS):
        admin = {"Authorization": "Bearer secret"}
        assert server.client.post("/admin/reload", headers=admin, timeout=60).status_code == 200
        predictions(server, PICTURES[0])
        time.sleep(0.5)  # for the old model to go
        free.append(torch.cuda.mem_get_info()[0])
    # Libraries keep memory for every pair of a thread and a stream, and the first reloads make new
    # pairs.
    assert free[RELOADS // 2] - free[-1] < 2**25


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="Triton needs a C compiler")
def test_compiled_model_answers_like_a_recorded_one(
    server: Server, start_server: StartServer, tmp_path: Path
) -> None:
    compiled = start_server(
        device="cuda", compile=True, max_batch_size=2, cache_dir=tmp_path / "cache", wait=False
    )
    limit = time.monotonic() + COMPILE_PATIENCE
    while not compiled.is_ready():
        assert compiled.process.poll() is None, compiled.log.read_text()
        assert time.monotonic() < limit, compiled.log.read_text()
        time.sleep(0.5)
    model = compiled.client.get("/healthz").json()["model"]
    assert model["backend"] == "torch-compile-cudagraphs", model["backend_reason"]
    for image in PICTURES:
        found, expected = predictions(compiled, image), predictions(server, image)
        assert [row["score"] for row in found] == pytest.approx(
            [row["score"] for row in expected], abs=0.04
        )
    assert "compiled the network for batches of 2 images in" in compiled.log.read_text()
    assert compiled.stop() == 0
