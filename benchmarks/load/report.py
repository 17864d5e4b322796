"""The outcome of a load as a table, a histogram and JSON. Latencies are those of good answers."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.load.generator import BROKEN, Outcome

PERCENTILES = (50, 95, 99)
_BUSY = 0.8  # of a core; a client that is busier may limit the result
_BARS = 12
_BAR_WIDTH = 50

TABLE_HEAD = f"{'':<28}{'requests':>9}{'images/s':>10}{'p50':>9}{'p95':>9}{'p99':>9}{'max ms':>9}  "
TABLE_HEAD += "count x status"


def table_row(name: str, outcome: Outcome) -> str:
    """A line below `TABLE_HEAD`."""
    milliseconds = (1e3 * outcome.percentile(percent) for percent in (*PERCENTILES, 100))
    latency = "".join(f"{value:9.1f}" if value == value else f"{'-':>9}" for value in milliseconds)
    requests, rate = outcome.statuses.total(), outcome.throughput
    return f"{name:<28}{requests:9,}{rate:10.1f}{latency}  {statuses(outcome)}"


def statuses(outcome: Outcome) -> str:
    """The number of answers by status, and of requests without an answer."""
    counts = [f"{n:,} x {status}" for status, n in sorted(outcome.statuses.items()) if status]
    if broken := outcome.statuses[BROKEN]:
        counts.append(f"{broken:,} x no answer")
    return ", ".join(counts)


def remarks(outcome: Outcome) -> list[str]:
    """Lines about failures, and about anything that makes the numbers less reliable."""
    lines = [f"{n:,} x {reason}" for reason, n in outcome.failures.most_common()]
    for status, answer in sorted(outcome.examples.items()):
        said = " ".join(answer.body[:300].decode("utf-8", "replace").split())
        lines.append(f"{outcome.statuses[status]:,} x {status}, such as: {said}")
    if outcome.seconds and outcome.cpu_seconds > _BUSY * outcome.seconds:
        share = outcome.cpu_seconds / outcome.seconds
        lines.append(f"this client used {share:.0%} of a core, so it may have limited the result")
    return lines


def histogram(latencies: Sequence[float]) -> list[str]:
    """Lines with upper bound in ms and count, for at most a dozen ranges.

    The bounds grow by a constant factor.
    """
    low, high = min(latencies), max(latencies)
    step = (high / low) ** (1 / _BARS)
    counts = Counter(_place(latency / low, step) for latency in latencies)
    most = max(counts.values())
    return [
        f"{1e3 * low * step ** (place + 1):10.1f} ms  {bar(counts[place] / most)} {counts[place]:,}"
        for place in range(max(counts) + 1)
    ]


def _place(ratio: float, step: float) -> int:
    """The range of a latency that is ``ratio`` times the least; the last range includes its end."""
    return min(int(math.log(ratio) / math.log(step)), _BARS - 1) if step > 1 else 0


def bar(share: float) -> str:
    """A bar of ``share`` of the width, visible unless 0, padded with spaces."""
    eighths = math.ceil(share * _BAR_WIDTH * 8)
    whole, rest = divmod(eighths, 8)
    return f"{'█' * whole + ' ▏▎▍▌▋▊▉'[rest] * (rest > 0):<{_BAR_WIDTH}}"


def summary(name: str, outcome: Outcome) -> dict[str, Any]:
    """Everything in the table and the remarks, for JSON; times in milliseconds."""
    latency: dict[str, float] = {}
    if outcome.latencies:
        latency = {f"p{p}": 1e3 * outcome.percentile(p) for p in PERCENTILES}
        latency["max"] = 1e3 * max(outcome.latencies)
        latency["mean"] = 1e3 * sum(outcome.latencies) / len(outcome.latencies)
    return {
        "load": name,
        "seconds": outcome.seconds,
        "requests": outcome.statuses.total(),
        "images_per_second": outcome.throughput,
        "latency_ms": latency,
        "statuses": {str(s): n for s, n in sorted(outcome.statuses.items()) if s != BROKEN},
        "failures": dict(outcome.failures),
        "client_cpu_seconds": outcome.cpu_seconds,
    }
