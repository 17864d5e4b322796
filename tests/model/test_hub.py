"""Checkpoints by name, from a local hub, through the hub's own client."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, file_download
from huggingface_hub.utils._http import reset_sessions
from safetensors.torch import save

from model.checkpoint import read_checkpoint
from model.errors import CheckpointError
from tests.servers import COMMIT, TOKEN, Hub, Repository

from .test_description import CONFIG
from .test_xcit_published import TINY, network

REPOSITORY = "timm/xcit_nano_12_p16_224.fb_in1k"


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": save(dict(network(**TINY).state_dict())),
    }


@pytest.fixture
def use_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Configure the client, which reads its environment once, when it is imported."""

    def use_hub(url: str, *, offline: bool = False) -> None:
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
        reset_sessions()

    return use_hub


@pytest.fixture
def start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_hub: Callable[..., None]
) -> Iterator[Callable[..., Hub]]:
    """Start a hub with one repository, and point the client at it."""
    hubs = []

    def start(repository: Repository, name: str = REPOSITORY) -> Hub:
        hub = Hub({name: repository})
        hubs.append(hub)
        use_hub(hub.url)
        return hub

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield start
    for hub in hubs:
        hub.close()


def refusal(checkpoint: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        f"hf-hub:{REPOSITORY}",
        f"hf-hub:{REPOSITORY}@main",
        f"hf-hub:{REPOSITORY}@{COMMIT}",
        "xcit_nano_12_p16_224.fb_in1k",
        "xcit_nano_12_p16_224",
    ],
)
def test_checkpoint_is_found_by_name(
    start: Callable[..., Hub], files: dict[str, bytes], name: str
) -> None:
    start(Repository(files))
    checkpoint = read_checkpoint(name)
    assert checkpoint.spec.name == "xcit_nano_12_p16_224.fb_in1k"
    assert checkpoint.spec.preprocess.image_size == 288
    assert checkpoint.sha256 == hashlib.sha256(files["model.safetensors"]).hexdigest()


def test_resolution_is_read_from_the_variant_name_without_a_config(
    start: Callable[..., Hub], files: dict[str, bytes]
) -> None:
    start(
        Repository({"model.safetensors": files["model.safetensors"]}),
        "timm/xcit_tiny_24_p8_384.fb_dist_in1k",
    )
    checkpoint = read_checkpoint("xcit_tiny_24_p8_384_dist")
    assert checkpoint.spec.preprocess.image_size == 384
    origin = checkpoint.description.origins["preprocess.image_size"]
    assert origin == "variant"


def test_hub_weights_may_be_a_pickle(start: Callable[..., Hub], tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    torch.save(network(**TINY).state_dict(), path)
    start(Repository({"pytorch_model.bin": path.read_bytes()}), "me/birds")
    assert read_checkpoint("hf-hub:me/birds").spec.num_classes == 5


def test_second_load_works_offline_from_the_cache(
    start: Callable[..., Hub],
    files: dict[str, bytes],
    use_hub: Callable[..., None],
) -> None:
    hub = start(Repository(files))
    read_checkpoint(f"hf-hub:{REPOSITORY}")
    hub.requests.clear()
    read_checkpoint(f"hf-hub:{REPOSITORY}")
    assert {method for method, _, _ in hub.requests} == {"HEAD"}
    use_hub("http://127.0.0.1:9")
    read_checkpoint(f"hf-hub:{REPOSITORY}")
    hub.requests.clear()
    use_hub(hub.url, offline=True)
    read_checkpoint(f"hf-hub:{REPOSITORY}")
    assert not hub.requests


def test_interrupted_download_is_resumed(
    start: Callable[..., Hub], files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub = start(Repository(files, cut_after=100_000))
    checkpoint = read_checkpoint(f"hf-hub:{REPOSITORY}")
    assert checkpoint.sha256 == hashlib.sha256(files["model.safetensors"]).hexdigest()
    ranges = [headers.get("Range") for method, _, headers in hub.requests if method == "GET"]
    assert ranges[-2:] == [None, "bytes=100000-"]


def test_token_gives_access_to_gated_repositories(
    start: Callable[..., Hub], files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    start(Repository(files, gated=True))
    told = refusal(f"hf-hub:{REPOSITORY}")
    assert f"hf-hub:{REPOSITORY}: gated: accept its terms" in told
    assert "HF_TOKEN" in told
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read_checkpoint(f"hf-hub:{REPOSITORY}").spec.num_classes == 5


def test_missing_repository_revision_or_file_is_named(
    start: Callable[..., Hub], files: dict[str, bytes]
) -> None:
    hub = start(Repository(files, private=True))
    assert "no such repository, or a private one" in refusal(f"hf-hub:{REPOSITORY}")
    hub.repositories[REPOSITORY].private = False
    assert "@v9: no revision 'v9'" in refusal(f"hf-hub:{REPOSITORY}@v9")
    hub.repositories[REPOSITORY].files = {"config.json": files["config.json"]}
    assert "no weight file; expected model.safetensors or pytorch_model.bin" in refusal(
        f"hf-hub:{REPOSITORY}"
    )


@pytest.mark.parametrize("name", ["", "timm", "a/b/c", "a b/c", "../b", "a/..", "-/a"])
def test_invalid_repository_names_are_refused(start: Callable[..., Hub], name: str) -> None:
    hub = start(Repository({}))
    assert f"hf-hub:{name}: not a repository id; expected hf-hub:OWNER/NAME" in refusal(
        f"hf-hub:{name}"
    )
    assert not hub.requests


def test_without_a_network_there_is_only_one_clear_error(
    start: Callable[..., Hub],
    files: dict[str, bytes],
    use_hub: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retries: list[logging.LogRecord] = []
    http = logging.getLogger("huggingface_hub.utils._http")
    monkeypatch.setattr(http, "handle", retries.append)
    http.setLevel(logging.WARNING)
    start(Repository(files))
    use_hub("http://127.0.0.1:9")
    told = refusal("xcit_small_24_p8_224")
    assert "not in the cache, and http://127.0.0.1:9 cannot be reached" in told
    use_hub("http://127.0.0.1:9", offline=True)
    assert "HF_HUB_OFFLINE forbids a download" in refusal("xcit_small_24_p8_224")
    assert not retries


def test_download_with_a_wrong_checksum_is_refused(
    start: Callable[..., Hub], files: dict[str, bytes]
) -> None:
    announced = {"model.safetensors": "a" * 64}
    start(Repository(files, announced=announced))
    told = refusal(f"hf-hub:{REPOSITORY}")
    assert f"expected {'a' * 64}: the download is corrupt; remove the file" in told


def test_unknown_variant_is_refused_with_similar_names() -> None:
    told = refusal("xcit_small_12_p16_244.fb_in1k")
    assert "neither a file nor a published variant; similar names: " in told
    assert "xcit_small_12_p16_224.fb_in1k" in told


def test_missing_hub_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert "pip install 'xcit-serve[hub]'" in refusal("xcit_small_12_p16_224")
