"""The whole server, with a classifier that is slow and fails on demand.

It is one process, or several with ``XCIT_HTTP_WORKERS``; see `tests.e2e.slow_children`.

A body is the duration of its batch in seconds, as text: ``0.5``. Other bodies:

bad      does not decode; ``odd`` is of no known format, ``vast`` is too large
nap 2    spends two seconds in preprocessing, and waits
burn 2   the same, computing in Python all the time
poison   fails alone
plague   fails, and so does everything afterwards
broken   loses the device
heavy    fits into memory with at most one other; ``huge`` does not fit at all
hang     never ends
gate     ends when the file ``XCIT_TEST_GATE`` exists
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from app.cli.serve import exit_with, serve_and_exit
from app.config.cpu_quota import usable_cores
from app.config.process_plan import plan_processes
from app.config.settings import read_settings
from app.observability.logs import set_up_logs
from app.serving import pipeline
from app.serving.classifier import Figures, Input
from app.serving.errors import (
    DeviceFailure,
    ImageTooLarge,
    InvalidImage,
    OutOfMemory,
    ServiceError,
    UnsupportedMediaType,
)
from model.drift import profile
from tests.app.conftest import INFO, FakeClassification, FakePrediction
from tests.app.remote import read_item, write_item

MAX_ITEM = 4096  # bytes of a body in a slot

REFUSED: dict[bytes, type[ServiceError]] = {
    b"bad": InvalidImage,
    b"odd": UnsupportedMediaType,
    b"vast": ImageTooLarge,
}


class SlowClassifier:
    streams = 1
    profile: Mapping[str, Any] = profile(["only"], None)

    def __init__(self, max_batch_size: int) -> None:
        self.info = replace(INFO, max_batch_size=max_batch_size)
        self.well = True

    def open(self) -> None:
        time.sleep(float(os.environ.get("XCIT_TEST_LOAD_SECONDS", "0")))

    def time_batches(self) -> dict[int, float]:
        return {}

    def choose_batch_size(self, timings: Sequence[Mapping[int, float]]) -> None: ...

    def warm_up(self) -> None: ...

    def self_test(self) -> None:
        if not self.well:
            raise DeviceFailure("the self-test failed: NaN")

    def preprocess(self, data: Input) -> str:
        assert isinstance(data, bytes)
        if data in REFUSED:
            raise REFUSED[data](f"the image is {data.decode()}")
        if data.startswith(b"nap "):
            time.sleep(float(data[4:]))
            return "0"
        if data.startswith(b"burn "):
            ended = time.thread_time() + float(data[5:])
            while time.thread_time() < ended:
                pass
            return "0"
        return data.decode()

    def prepare_explanation(self, data: bytes) -> str:
        return self.preprocess(data)

    def explain(self, item: str, head: int | None) -> bytes:
        return item.encode()

    def padded_size(self, count: int) -> int:
        return count

    def predict(self, items: Sequence[str], top_k: int) -> list[FakeClassification]:
        if "broken" in items:
            raise DeviceFailure("the device is lost")
        if "huge" in items or ("heavy" in items and len(items) > 2):
            raise OutOfMemory("no room")
        self.well = self.well and "plague" not in items
        if "poison" in items or not self.well:
            raise RuntimeError("NaN")
        while "gate" in items and not Path(os.environ["XCIT_TEST_GATE"]).exists():
            time.sleep(0.01)
        times = {"hang": "3600", "heavy": "0", "gate": "0"}
        time.sleep(max(float(times.get(item, item)) for item in items))
        return [self.answer(item, top_k) for item in items]

    def figures(self, item: str, found: object) -> Figures:
        return Figures(0, 1.0, 0.0, 0.5, len(item))

    @staticmethod
    def answer(item: str, top_k: int) -> FakeClassification:
        return FakeClassification([FakePrediction(0, item, 1.0)] * top_k)


class SlowSlotClassifier(SlowClassifier):
    """The slow classifier of an engine; see `app.loading.SlotClassifier`."""

    spec: Mapping[str, object] = {}
    slot_bytes = MAX_ITEM
    weight_bytes = 0
    busy_workers = float(os.environ.get("XCIT_TEST_BUSY_WORKERS", "1"))

    def item(self, slot: memoryview, *, floats: bool) -> str:
        return read_item(slot).decode()

    def explain_pixels(self, pixels: bytes, head: int | None) -> bytes:
        return self.explain(pixels.decode(), head)


class SlowPreparer(SlowClassifier):
    """The worker's side of the slow classifier; see `app.preparation.RemotePreparer`."""

    def __init__(self) -> None:
        super().__init__(0)

    def prepare_explanation(self, data: bytes) -> bytes:  # type: ignore[override]
        return self.preprocess(data).encode()

    def write(self, item: str, slot: memoryview) -> bool:
        return write_item(item.encode(), slot)

    def read(self, slot: memoryview, top_k: int) -> FakeClassification:
        return self.answer(read_item(slot).decode(), top_k)


def follow_variables() -> None:
    pipeline.STUCK_AFTER = float(os.environ.get("XCIT_TEST_STUCK_AFTER", pipeline.STUCK_AFTER))


def main() -> NoReturn:
    settings = read_settings()
    follow_variables()
    set_up_logs(settings.log_level, settings.log_format)
    plan = plan_processes(settings, usable_cores())
    if plan.workers:
        from app.processes.supervisor import supervise

        exit_with(settings, partial(supervise, settings, plan, "tests.e2e.slow_children"))
    serve_and_exit(settings, lambda: SlowClassifier(settings.max_batch_size or 16))


if __name__ == "__main__":
    main()
