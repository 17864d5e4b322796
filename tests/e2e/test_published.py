"""A published model, downloaded and served by its name alone."""

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save

from model.families.xcit_published import PublishedXCiT
from tests.server_process import ROOT, environment
from tests.servers import Hub, Repository

from .conftest import StartServer

pytestmark = pytest.mark.one_process("about checkpoints from a hub")

VARIANT = "xcit_nano_12_p16_224.fb_in1k"
CHUNK = 10 * 2**20  # bytes that the client writes at once
SMALL = {
    "patch_size": 16,
    "num_classes": 1000,
    "dim": 128,
    "depth": 1,
    "cls_depth": 1,
    "heads": 4,
    "mlp_dim": 6000,
    "tokens_norm": False,
}


@pytest.fixture(scope="module")
def weights() -> bytes:
    return save(dict(PublishedXCiT(**SMALL).state_dict()))  # type: ignore[arg-type]


@pytest.fixture
def hub(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub({f"timm/{VARIANT}": Repository({"model.safetensors": weights})})
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    yield hub
    hub.close()


def inspect(*arguments: str) -> "subprocess.Popen[str]":
    command = (sys.executable, "-m", "app", "inspect", VARIANT, *arguments)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=pipe, stderr=pipe, text=True
    )


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_published_model_is_served_by_name_with_synsets(
    hub: Hub, start_server: StartServer
) -> None:
    server = start_server(checkpoint=VARIANT, image_size=64)
    photo = io.BytesIO()
    Image.effect_noise((90, 70), 60).convert("RGB").save(photo, "JPEG")
    answer = server.client.post("/predict?top_k=2", content=photo.getvalue()).json()
    assert answer["model"]["name"] == VARIANT
    assert [row["synset"][0] for row in answer["predictions"]] == ["n", "n"]
    assert server.client.get("/healthz").json()["model"]["family"] == "published"
    assert "64 pixels" in server.log.read_text()


def test_killed_download_resumes_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    repository = hub.repositories[f"timm/{VARIANT}"]
    repository.cut_after, repository.stall = CHUNK + 1000, True
    process = inspect()
    assert hub.stalled.wait(60)
    wait_until(lambda: any(p.stat().st_size for p in tmp_path.rglob("*.incomplete")))
    process.kill()
    process.communicate()
    hub.awake.set()
    process = inspect("--image-size", "96")
    told, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    (resumed,) = {headers.get("Range") for _, _, headers in hub.requests} - {None}
    assert resumed
    assert 0 < int(resumed.removeprefix("bytes=").removesuffix("-")) <= CHUNK
    assert VARIANT in told
    assert any(
        line.split() == ["preprocess.image_size", "96", "(settings)"] for line in told.splitlines()
    )


def test_missing_checkpoint_offline_is_one_line_and_exit_code_1(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    process = inspect()
    told, complaint = process.communicate(timeout=60)
    assert (process.returncode, told) == (1, "")
    assert complaint == (
        f"xcit-serve: hf-hub:timm/{VARIANT}: not in the cache, "
        "and HF_HUB_OFFLINE forbids a download\n"
    )
    assert not hub.requests
