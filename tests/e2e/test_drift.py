"""Alerts on drift, raised by a real Prometheus that scrapes a real server.

The rules are those that are deployed, over seconds instead of an hour. The images are generated, so
the classes mean nothing, but their distributions do.
"""

import asyncio
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from app.cli.main import main
from benchmarks.drift import ALIKE, CHANGES, DIFFERENT, Photos, Seen, complaints, observe
from benchmarks.prometheus import INTERVAL, RULES, running_prometheus, shorten
from benchmarks.server import read_metrics
from model.checkpoint import BUNDLED_CHECKPOINT
from model.drift import BOUNDS
from tests.dashboard import QUERIES, fill_in

from .conftest import StartServer
from .prometheus import program

pytestmark = pytest.mark.starts_first

COUNT = 520
WINDOW = 16  # seconds
(DARK,) = (change for change in CHANGES if change.alert == "XcitImageDrift")
FILLED = {"job": "xcit", "instance": ".*", "rate_interval": "3s"}
RECORDED = [each for each in QUERIES if "checkpoint:" in each[1]["expr"]]


def photos(seed: int, count: int) -> Photos:
    """Soft coloured blobs of 32 pixels; the labels say nothing."""
    chance = np.random.default_rng(seed)
    found = []
    for colours in chance.integers(0, 256, (count, 4, 4, 3), np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(colours).resize((32, 32), Image.Resampling.BICUBIC).save(buffer, "PNG")
        found.append(("any", buffer.getvalue()))
    return found


def write_photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number, (_, data) in enumerate(photos(0, count)):
        (folder / f"{number}.png").write_bytes(data)
    return folder


@dataclass
class Observed:
    """What Prometheus made of images like those of the reference, and of dark ones.

    Attributes:
        panels: the number of series of each query of the dashboard that uses recorded ones.
        counted: predictions in the metrics of the server.
    """

    alike: Seen
    dark: Seen
    panels: dict[str, int]
    counted: float


@pytest.fixture(scope="module")
def observed(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    program("prometheus")
    directory = tmp_path_factory.mktemp("drift")
    checkpoint, folder = directory / "mine.safetensors", write_photos(directory / "images", 400)
    assert evaluate(folder, "--reference", "--out", str(checkpoint)) == 0
    server = start_server(checkpoint=checkpoint)

    async def see() -> Observed:
        with running_prometheus(directory, f"127.0.0.1:{server.port}", WINDOW) as prometheus:
            await asyncio.sleep(2 * INTERVAL)
            alike = await observe(server.url, prometheus, photos(1, COUNT), WINDOW)
            await asyncio.sleep(WINDOW)
            dark = await observe(server.url, prometheus, DARK.apply(photos(1, COUNT)), WINDOW)
            panels = {
                f"{panel['title']}: {target['legendFormat']}": len(
                    prometheus.by_label(fill_in(target["expr"], **FILLED), "__name__")
                )
                for panel, target in RECORDED
            }
            counted = sum(
                value
                for name, value in (await read_metrics(server.url)).items()
                if name.startswith("xcit_prediction_score_count")
            )
        return Observed(alike, dark, panels, counted)

    return asyncio.run(see())


def evaluate(*arguments: object) -> int:
    """Run ``xcit-serve evaluate`` on the bundled checkpoint in this process."""
    backend = ("--backend", "torch", "--streams", "1")
    given = [*map(str, arguments), "--unlabelled", *backend]
    threads = torch.get_num_threads()
    try:
        return main(["evaluate", str(BUNDLED_CHECKPOINT), *given])
    finally:
        torch.set_num_threads(threads)


def test_images_like_the_reference_raise_no_alert(observed: Observed) -> None:
    assert complaints(CHANGES[0], observed.alike) == []
    assert observed.alike.distances.keys() == {*BOUNDS, "class"}


def test_dark_images_raise_the_alert_on_images(observed: Observed) -> None:
    assert complaints(DARK, observed.dark) == []
    assert observed.dark.distances["brightness"] > DIFFERENT
    assert observed.dark.distances["pixels"] < ALIKE


def test_every_prediction_is_counted_once(observed: Observed) -> None:
    assert observed.counted == 2 * COUNT


def test_panels_show_the_recorded_series(observed: Observed) -> None:
    assert len(observed.panels) == len(RECORDED)
    assert all(observed.panels.values()), observed.panels


def test_only_durations_of_the_rules_are_replaced() -> None:
    rules = RULES.read_text()
    short = shorten(rules, 7)
    duration = r"\[\w+\]|(?<=for: )\w+|(?<=interval: )\w+"
    assert re.sub(duration, "", short) == re.sub(duration, "", rules)
    assert "1h]" not in short
