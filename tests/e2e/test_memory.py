"""Memory as the kernel counts it, compared with the estimate of `app.config.memory`."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import httpx
import pytest
from PIL import Image

from app.config.cpu_quota import usable_cores
from app.config.memory import BYTES_PER_PIXEL, MIB, estimate_peak_memory
from app.config.process_plan import ProcessPlan
from app.config.settings import Settings
from app.loading import load_model
from model.checkpoint import BUNDLED_CHECKPOINT
from tests.hostile.bitstreams import hevc
from tests.hostile.heif import Heif
from tests.server_process import ROOT, WORKERS

from .conftest import StartServer

SIDE = 7071  # squared, nearly the permitted 50,000,000 pixels
WORST: dict[str, tuple[str, dict[str, Any]]] = {
    "lossy WebP": ("RGB", {"format": "WEBP", "quality": 10, "method": 0}),
    "lossless WebP": ("RGBA", {"format": "WEBP", "lossless": True, "quality": 0, "method": 0}),
    "animated WebP": ("RGB", {"format": "WEBP", "quality": 10, "method": 0, "save_all": True}),
    "progressive CMYK JPEG": ("CMYK", {"format": "JPEG", "progressive": True, "subsampling": 0}),
    "progressive JPEG": ("RGB", {"format": "JPEG", "progressive": True, "subsampling": 0}),
    "RGBA PNG": ("RGBA", {"format": "PNG", "compress_level": 1}),
    "RGB PNG with a transparent colour": (
        "RGB",
        {"format": "PNG", "compress_level": 1, "transparency": (1, 2, 3)},
    ),
    "16-bit PNG": ("I;16", {"format": "PNG", "compress_level": 1}),
    "transparent GIF": ("P", {"format": "GIF", "transparency": 0}),
    "8-bit BMP": ("P", {"format": "BMP"}),
    "RGBA TIFF": ("RGBA", {"format": "TIFF", "compression": "tiff_deflate"}),
    "LAB TIFF": ("LAB", {"format": "TIFF", "compression": "tiff_deflate"}),
    "float TIFF": ("F", {"format": "TIFF", "compression": "tiff_deflate"}),
    "bilevel TIFF": ("1", {"format": "TIFF", "compression": "group4"}),
}
# Of the model's input: a small one lets a JPEG be decoded at a reduced scale, a large one does not.
SIZES = (32, 2048)

PEAK_GROWTH = """
import io, sys
from pathlib import Path
from PIL import Image
from model.images.preprocess import preprocess
from model.spec import PreprocessSpec

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

spec = PreprocessSpec(int(sys.argv[1]))
small = io.BytesIO()
Image.new("RGB", (64, 64)).save(small, "PNG")
preprocess(small.getvalue(), spec)
data = sys.stdin.buffer.read()
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
before = status("VmRSS")
preprocess(data, spec)
print(status("VmHWM") - before)
"""


@cache
def encoded(name: str) -> bytes:
    if name == "HEIC":
        return Heif([hevc((SIDE // 8 * 8, SIDE // 8 * 8), b"\xff" * 1000)]).data()
    mode, options = WORST[name]
    buffer = io.BytesIO()
    Image.new(mode, (SIDE, SIDE)).save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.one_process("decoding is the same in a worker")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [*WORST, "HEIC"])
def test_decoding_stays_within_the_estimated_bytes_per_pixel(name: str, size: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK_GROWTH, str(size)],
        input=encoded(name),
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    output = 8 * 3 * size**2  # the model's input, twice: as resized, and turned upright
    assert int(done.stdout) - output <= BYTES_PER_PIXEL * SIDE**2


def test_fully_loaded_server_stays_within_the_memory_estimate(start_server: StartServer) -> None:
    """Decode a WebP of the maximum size in each thread, and explain one, during a reload."""
    server = start_server(admin_token="secret", request_timeout_s=120)
    data, cores = encoded("lossy WebP"), usable_cores()
    paths = ["/predict"] * 2 * cores + ["/explain"] * 2

    def post(path: str) -> int:
        with httpx.Client(base_url=server.url, timeout=120) as client:
            if path == "/admin/reload":
                return client.post(path, headers={"Authorization": "Bearer secret"}).status_code
            return client.post(path, content=data).status_code

    with ThreadPoolExecutor(len(paths) + 1) as pool:
        assert set(pool.map(post, ["/admin/reload", *paths])) == {200}
    peak = server.memory("VmHWM")
    weights = BUNDLED_CHECKPOINT.stat().st_size
    assert peak <= estimate_peak_memory(Settings(), cores, weights, ProcessPlan(WORKERS)).total


@pytest.mark.one_process("this starts no server")
def test_low_memory_limit_is_logged_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.loading.memory_limit", lambda: 1000 * MIB)
    load_model(Settings(device="cpu", backend="torch", streams=1, cache_dir=None), 1)
    assert "the memory limit is 1000 MiB, but the service can need" in caplog.text
