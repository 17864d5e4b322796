"""Results as Markdown: medians over the rounds, and ratios within them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.compare.contenders import Contender
from benchmarks.compare.measure import Sample
from benchmarks.report import table

Results = Mapping[str, Sequence[Sample]]  # one sample per round, by contender


@dataclass(frozen=True, slots=True)
class Figure:
    title: str
    of: Callable[[Sample], float]
    format: str
    best: Callable[[Sequence[float]], float] = min

    def median(self, samples: Sequence[Sample]) -> float:
        return median(self.of(sample) for sample in samples)


FIGURES = (
    Figure("images/s", lambda sample: sample.throughput, "{:.1f}", max),
    Figure("p50 ms", lambda sample: 1e3 * sample.p50, "{:.0f}"),
    Figure("p99 ms", lambda sample: 1e3 * sample.p99, "{:.0f}"),
    Figure("CPU s per 1,000 images", lambda sample: sample.cpu_per_thousand, "{:.1f}"),
)
IDLE = Figure("idle, of a core", lambda sample: sample.idle, "{:.1%}")


def medians_table(results: Results) -> str:
    figures = (*FIGURES, IDLE)
    rows = []
    for name, samples in results.items():
        cells = [figure.format.format(figure.median(samples)) for figure in figures]
        rates = [FIGURES[0].of(sample) for sample in samples]
        cells[0] += f" ({min(rates):.1f} to {max(rates):.1f})"
        rows.append([name, *cells, str(sum(sample.refused for sample in samples))])
    return table(("server", *(figure.title for figure in figures), "not 200"), rows)


def ratios_table(results: Results, service: Sequence[str], peers: Sequence[str]) -> str:
    """The ratio of each of ``service`` to the best peer, by the figure's median."""
    rows = []
    for name in service:
        cells = [ratio_text(results, figure, name, peers) for figure in FIGURES]
        rows.append([name, *cells])
    return table(("over the best peer", *(figure.title for figure in FIGURES)), rows)


def ratio_text(results: Results, figure: Figure, name: str, peers: Sequence[str]) -> str:
    medians = {peer: figure.median(results[peer]) for peer in peers}
    best = figure.best(list(medians.values()))
    peer = next(peer for peer, value in medians.items() if value == best)
    pairs = zip(results[name], results[peer], strict=True)
    ratios = [figure.of(ours) / figure.of(theirs) for ours, theirs in pairs]
    return f"**{median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) of {peer}"


def setup_list(results: Results, contenders: Sequence[Contender]) -> str:
    lines = []
    for contender in contenders:
        versions = ", ".join(f"{name} {version}" for name, version in contender.versions().items())
        lines.append(f"- {contender.name}: {contender.setup}; {versions}")
        if choices := [sample.choices for sample in results[contender.name] if sample.choices]:
            lines[-1] += f". It chose, by round: {'; '.join(choices)}"
    return "\n".join(lines)
