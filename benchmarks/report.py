"""Measurements as Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.load.generator import Outcome
from benchmarks.load.report import PERCENTILES, statuses
from benchmarks.parts import Parts
from benchmarks.server import Usage

LATENCY_HEAD = (
    *("load", "images/s", *(f"p{percent} ms" for percent in PERCENTILES)),
    *("count x status", "mean batch"),
)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """A load and its outcome, the server's usage, and the cost of the parts around that time."""

    name: str
    outcome: Outcome
    usage: Usage
    parts: Parts


@dataclass(frozen=True, slots=True)
class LoneRequest:
    """A single request: its seconds, those of its parts, and milliseconds by server phase.

    Attributes:
        probe: seconds of a request without an image, to an equally cold server.
    """

    latency: float
    bare: float
    probe: float
    phases: Mapping[str, float]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *rows))


def parts_table(parts: Parts) -> str:
    costs = {"preprocess": (parts.preprocess, 1)}
    costs |= {f"model, batch {size}": (cost, size) for size, cost in parts.predict.items()}
    rows = [
        (name, f"{1e3 * cost.cpu / size:.2f}", f"{1e3 * cost.wall:.2f}")
        for name, (cost, size) in costs.items()
    ]
    return table(("alone, on one thread", "CPU ms per image", "wall ms per call"), rows)


def load_tables(results: Sequence[LoadResult]) -> str:
    """Latencies, then the server's CPU time compared with its parts at the actual batch size."""
    latency = table(
        LATENCY_HEAD,
        [latency_row(result.name, result.outcome, result.usage) for result in results],
    )
    cpu = table(
        ("CPU s per 1,000 images", "server", "preprocess + model alone", "ratio"),
        [cpu_row(result) for result in results],
    )
    return f"{latency}\n\n{cpu}"


def latency_row(name: str, outcome: Outcome, usage: Usage, *, digits: int = 0) -> list[str]:
    """A row below `LATENCY_HEAD`, with ``digits`` of a millisecond."""
    return [
        name,
        f"{outcome.throughput:.1f}",
        *(f"{1e3 * outcome.percentile(percent):.{digits}f}" for percent in PERCENTILES),
        statuses(outcome),
        f"{usage.batch_size:.2f}",
    ]


def cpu_row(result: LoadResult) -> list[str]:
    size = result.parts.nearest(result.usage.batch_size)
    served, bare = result.usage.cpu_per_image, result.parts.cpu_per_image(size)
    return [
        result.name,
        f"{1e3 * served:.2f}",
        f"{1e3 * bare:.2f} (batch {size})",
        f"**{served / bare:.3f}**",
    ]


def lone_text(lone: Sequence[LoneRequest]) -> str:
    latency, bare, surplus, probe = (
        1e3 * median(seconds)
        for seconds in (
            [request.latency for request in lone],
            [request.bare for request in lone],
            [request.latency - request.bare for request in lone],
            [request.probe for request in lone],
        )
    )
    phases = ", ".join(
        f"{name} {median(request.phases[name] for request in lone):.2f}" for name in lone[0].phases
    )
    return (
        f"A single request: median {latency:.2f} ms at the client; the same image through "
        f"preprocess and model alone, in turn with it, {bare:.2f} ms; median overhead "
        f"**{surplus:+.2f} ms**. "
        f"`GET /livez`, sent as rarely, takes {probe:.2f} ms. "
        f"The server's phases, medians in ms: {phases}."
    )


def idle_text(usage: Usage, seconds: float) -> str:
    return (
        f"Idle: {1e3 * usage.cpu_seconds:.0f} ms of CPU time in {seconds:.0f} s, "
        f"**{usage.cpu_seconds / seconds:.2%}** of a core (the clock ticks in 10 ms; one reading "
        "of `/metrics` is included)."
    )
