"""Long loads on the real server: overload, and tens of thousands of requests."""

import asyncio
from pathlib import Path
from statistics import median

import pytest

from benchmarks.checkpoints import write_random_checkpoint
from benchmarks.images import write_images
from benchmarks.overload import QUEUE, overload
from benchmarks.soak import soak

from .conftest import StartServer

pytestmark = pytest.mark.slow


def test_overload_is_refused_fast_while_the_rest_is_served(
    start_server: StartServer, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "dim128.safetensors"
    write_random_checkpoint("dim128", checkpoint)
    write_images(tmp_path / "photos", 8)
    images = [path.read_bytes() for path in (tmp_path / "photos").iterdir()]
    server = start_server(checkpoint=checkpoint, max_queue_size=QUEUE)
    found = asyncio.run(overload(server.url, images, times=3.0, seconds=20.0))
    outcome = found.overload
    assert set(outcome.statuses) == {200, 503}
    assert found.goodput > 0.8, "0.9 on a quiet machine, see docs/reliability.md"
    assert outcome.percentile(99) < 1.5 * found.predicted + 0.5
    assert median(outcome.refusals) < 0.1
    assert found.recovery < 2
    bodies = QUEUE * max(map(len, images))
    assert found.memory_peak - found.memory_before < 4 * bodies + 100e6
    assert server.stop() == 0


def test_thirty_thousand_mixed_requests_leak_nothing(start_server: StartServer) -> None:
    server = start_server(log_level="error")
    found = asyncio.run(soak(server.url, 30_000))
    assert {status for kind, status in found.answers if kind == "good"} == {200}
    assert {status for _, status in found.answers} == {0, 200, 400, 415}
    assert found.slope * 10_000 < 2**20
    assert found.files[-1] <= found.files[0] + 2
    assert found.inflight == 0
    assert server.threads() < 40
    assert server.log.read_text() == ""
    assert server.stop() == 0
