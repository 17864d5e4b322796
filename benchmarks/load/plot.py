"""Plotting latencies. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

_NINES = (0.5, 0.9, 0.99, 0.999, 0.9999)


def plot_latencies(path: Path, title: str, latencies: Mapping[str, Sequence[float]]) -> None:
    """Write a PNG of latency by share of answers, with a line for each load.

    Shares are spread by their distance from 1, so that the tail has room.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, seconds in latencies.items():
        slower = [1 - place / len(seconds) for place in range(len(seconds))]
        axes.step(slower, [1e3 * value for value in sorted(seconds)], where="post", label=name)
    axes.set(xscale="log", yscale="log", title=title, ylabel="ms from due to answered")
    axes.set_xlabel("share of good answers that came within")
    least = min((1 / len(seconds) for seconds in latencies.values()), default=0.1)
    axes.set_xlim(1, min(least, 0.5))
    shown = [share for share in _NINES if 1 - share >= 0.9 * least]
    axes.set_xticks([1 - share for share in shown], [f"{100 * share:g} %" for share in shown])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, format="png", dpi=120)
