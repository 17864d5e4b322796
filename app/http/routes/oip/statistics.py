"""Statistics of the Open Inference Protocol."""

import time

from app.serving.timings import Timings

DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


class Statistics:
    """The requests to one model by this protocol; durations in nanoseconds."""

    def __init__(self) -> None:
        self.last = 0
        self.durations = {name: {"count": 0, "ns": 0} for name in DURATIONS}

    def succeed(self, timings: Timings, encoding: float) -> None:
        self.last = time.time_ns() // 1_000_000
        self._add("success", timings.total())
        self._add("queue", timings.phases["queue"])
        self._add("compute_input", timings.phases["preprocess"])
        self._add("compute_infer", timings.phases["inference"])
        self._add("compute_output", encoding)

    def fail(self, timings: Timings) -> None:
        self._add("fail", timings.total())

    def _add(self, name: str, seconds: float) -> None:
        self.durations[name]["count"] += 1
        self.durations[name]["ns"] += round(1e9 * seconds)
