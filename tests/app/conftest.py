"""A fake classifier whose batches wait at a gate, and clients of the application on it."""

import asyncio
import os
import threading
from array import array
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from app.config.settings import Settings
from app.http.app import create_app
from app.serving.classifier import Classification, Figures, Input, ModelInfo, Tensor
from app.serving.errors import DeviceFailure, InvalidImage
from app.serving.lifecycle import Lifecycle, State
from model.drift import profile

from .remote import use_remote_engines

INFO = ModelInfo(
    name="fake",
    version="3",
    family="none",
    checkpoint_sha256="0" * 64,
    device="cpu",
    backend="fake",
    backend_reason="there is no other",
    precision="float32",
    streams=1,
    max_batch_size=16,
    num_classes=10,
    image_size=2,
    heads=4,
    temperature=1.5,
    images_per_second=50.0,
)


@dataclass(frozen=True)
class FakePrediction:
    class_id: int
    label: str
    score: float
    synset: str | None = None


@dataclass(frozen=True)
class FakeClassification:
    predictions: list[FakePrediction]
    embedding: "array[float] | None" = None

    @property
    def logits(self) -> "array[float]":
        return array("f", range(10))

    @property
    def probabilities(self) -> "array[float]":
        """In the order of the classes."""
        scores = {row.class_id: row.score for row in self.predictions}
        return array("f", (scores.get(i, 0.0) for i in range(10)))


class FakeClassifier:
    """Classifies ``b"3"`` as class 3 with score 0.9; the first number of a tensor is its class.

    The image of an item has as many pixels as bytes, and its brightness and entropy are its class
    in tenths. ``b"bad"`` cannot be decoded, a batch with ``b"poison"`` fails, and a batch with
    ``b"broken"`` loses the device.
    """

    def __init__(self, streams: int = 1, max_batch_size: int = 16) -> None:
        self.streams = streams
        self.profile: Mapping[str, Any] = profile([f"class_{i}" for i in range(10)], None)
        self.info = replace(INFO, max_batch_size=max_batch_size)
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)
        self.batches: list[list[bytes]] = []
        self.opened = self.warmed = 0
        self.timings: list[Mapping[int, float]] = []

    def open(self) -> None:
        self.opened += 1

    def time_batches(self) -> dict[int, float]:
        return {1: 0.5}

    def choose_batch_size(self, timings: Sequence[Mapping[int, float]]) -> None:
        self.timings = list(timings)

    def warm_up(self) -> None:
        assert self.timings, "the batch size has not been chosen"
        self.warmed += 1

    def self_test(self) -> None: ...

    def preprocess(self, image: Input) -> bytes:
        if isinstance(image, Tensor):
            return b"%d" % image.values.cast("f")[0]
        if image == b"bad":
            raise InvalidImage("it does not decode")
        return image

    def prepare_explanation(self, data: bytes) -> bytes:
        return self.preprocess(data)

    def explain(self, item: bytes, head: int | None) -> bytes:
        assert self.gate.wait(10), "no test opened the gate"
        return b"%b by %b" % (item, str(head).encode())

    def padded_size(self, count: int) -> int:
        return count + count % 2

    def predict(self, items: Sequence[bytes], top_k: int) -> list[FakeClassification]:
        self.batches.append(list(items))
        self.started.release()
        assert self.gate.wait(10), "no test opened the gate"
        if b"broken" in items:
            raise DeviceFailure("the device is lost")
        if b"poison" in items:
            raise RuntimeError("poison")
        return [FakeClassification(self.rows(item, top_k)) for item in items]

    def figures(self, item: bytes, found: Classification) -> Figures:
        best = found.predictions[0]
        return Figures(best.class_id, best.score, best.class_id / 10, best.class_id / 10, len(item))

    @staticmethod
    def rows(item: bytes, top_k: int) -> list[FakePrediction]:
        best = int(item) if item.isdigit() else 0
        order = [best, *(i for i in range(10) if i != best)]
        return [FakePrediction(i, f"class_{i}", 0.9 / 2**n) for n, i in enumerate(order[:top_k])]


if os.environ.get("XCIT_TEST_ENGINE") == "remote":
    use_remote_engines()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


@asynccontextmanager
async def starting(
    load: Callable[[], FakeClassifier], **choices: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Lifecycle]]:
    """A client of the whole application, which is loading."""
    lifecycle = Lifecycle()
    app = create_app(make_settings(**choices), load, lifecycle=lifecycle)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client, lifecycle


@asynccontextmanager
async def running(
    classifier: FakeClassifier, **choices: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Lifecycle]]:
    """A client of the whole application, READY, on a fake classifier."""
    async with starting(lambda: classifier, **choices) as (client, lifecycle):
        await until(lambda: lifecycle.state is not State.LOADING)
        yield client, lifecycle


def make_settings(**choices: Any) -> Settings:
    """The default settings with ``choices``, and with any host allowed.

    The environment and ``.env`` are not read.
    """
    defaults = Settings.model_construct().model_dump() | {"allowed_hosts": "*"}
    return Settings.model_validate(defaults | choices)


async def until(condition: Callable[[], bool]) -> None:
    """Let other tasks run until ``condition`` is true."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
