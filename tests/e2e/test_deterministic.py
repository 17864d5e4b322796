"""A server in deterministic mode: a photo has the same answer alone and in the middle of a load."""

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.server_process import PATIENCE, PHOTO, ROOT, Server

from .conftest import Run, StartServer
from .test_contract import picture

triton = pytest.importorskip("tritonclient.http", reason="the development requirements have it")

CALLERS = 16
# PyTorch in 32 bits computes other bits in larger batches, and is confined to single images.
TORCH = {"backend": "torch", "precision": "float32"}
SERVERS: dict[str, dict[str, Any]] = {
    "one process": {"http_workers": 0, "streams": 2, **TORCH},
    "two engines": {"http_workers": 2, "engines": 2, "max_batch_size": 8},
}


@pytest.fixture(scope="module", params=SERVERS)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server(shape: str, start_server: StartServer) -> Server:
    return start_server(deterministic=True, device="cpu", **SERVERS[shape])


@pytest.fixture(scope="module")
def others() -> list[bytes]:
    return [picture(seed) for seed in range(8)]


def logits(server: Server, *images: bytes) -> list[bytes]:
    """The logits of each image of one request of the Open Inference Protocol."""
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        given = triton.InferInput("image", [len(images)], "BYTES")
        given.set_data_from_numpy(np.array(images, np.object_))
        outputs = [triton.InferRequestedOutput("logits")]
        rows = client.infer("xcit", [given], outputs=outputs).as_numpy("logits")
    assert rows.dtype == np.float32
    return [row.tobytes() for row in rows]


def test_logits_and_scores_are_the_same_alone_and_under_load(
    server: Server, others: list[bytes]
) -> None:
    def scores() -> Any:
        answer = httpx.post(f"{server.url}/predict?top_k=10", content=PHOTO, timeout=PATIENCE)
        return answer.json()["predictions"]

    def ask(number: int) -> tuple[set[bytes], Any]:
        order = random.Random(number)
        images = [PHOTO, *order.sample(others, order.randrange(6))]
        order.shuffle(images)
        found = logits(server, *images)
        return {found[images.index(PHOTO)]}, scores() if number % 2 else None

    alone, expected = logits(server, PHOTO), scores()
    assert len(expected) == 10
    with ThreadPoolExecutor(CALLERS) as pool:
        answers = [*pool.map(ask, range(4 * CALLERS))]
    assert set.union(*(found for found, _ in answers)) == {*alone}
    assert all(found in (expected, None) for _, found in answers)


def test_healthz_the_log_and_the_command_agree(server: Server, shape: str, run: Run) -> None:
    model = server.client.get("/healthz").json()["model"]
    assert model["deterministic"] is True
    reason = model["backend_reason"].rpartition("; ")[2]
    assert reason.startswith("deterministic in batches of 1")
    assert reason in server.log.read_text()
    assert re.fullmatch("[0-9a-f]{16}", model["fingerprint"])
    if shape == "one process":
        assert (model["max_batch_size"], reason) == (1, "deterministic in batches of 1")

    photo = ROOT / "examples" / "ship.jpg"
    backend = ("--backend", model["backend"], "--precision", model["precision"])
    arguments = ("--device", "cpu", *backend, "--json", "--top-k", 10)
    code, printed, _ = run("predict", photo, "--deterministic", *arguments)
    assert code == 0
    answer = server.client.post("/predict?top_k=10", content=PHOTO).json()
    assert json.loads(printed)[0]["predictions"] == answer["predictions"]
