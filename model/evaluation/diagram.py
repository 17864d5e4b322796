"""Reliability diagrams, as SVG."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from model.errors import ModelError
from model.evaluation.reliability import BINS, Reliability
from model.files import replacing

SIDE, MARGIN, GAP = 240, 56, 48  # pixels of a panel, around both, and between them
COUNTS = 48  # height of the bars that count images
BLUE, RED, GREY = "#3b76af", "#d1495b", "#8a8a8a"


def write_diagram(path: Path, panels: Sequence[tuple[str, Reliability]]) -> None:
    """Write a diagram; ``path`` is replaced whole or not at all.

    Raises:
        ModelError: the file cannot be written.
    """
    try:
        with replacing(path) as partial:
            partial.write_text(diagram(panels), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{path}: cannot be written: {error.strerror}") from error


def diagram(panels: Sequence[tuple[str, Reliability]]) -> str:
    """A reliability diagram as SVG.

    Args:
        panels: titles and bins, from left to right.
    """
    width = 2 * MARGIN + len(panels) * (SIDE + GAP) - GAP
    height = 2 * MARGIN + SIDE + COUNTS
    titles = "; ".join(f"{title}: calibration error {bins.error:.4f}" for title, bins in panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" fill="#222"',
        f'  width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f"<title>Reliability diagram. {titles}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, (title, bins) in enumerate(panels):
        lines += _panel(MARGIN + number * (SIDE + GAP), title, bins)
    lines += [
        f'<text transform="translate(16 {MARGIN + SIDE / 2}) rotate(-90)" text-anchor="middle">',
        "  share of right answers</text>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _panel(left: int, title: str, bins: Reliability) -> Iterator[str]:
    """Bars of right answers, their distance to the diagonal, and below them a bar of images."""
    top, bottom, step = MARGIN, MARGIN + SIDE, SIDE / BINS
    most = max(bins.images.max().item(), 1)
    for number, count in enumerate(bins.images.tolist()):
        score, right = bins.scores[number].item(), bins.right[number].item()
        x = left + number * step
        yield _bar(x, bottom - SIDE * right, SIDE * right, BLUE, 1.0)
        if count:
            high, low = max(score, right), min(score, right)
            yield _bar(x, bottom - SIDE * high, SIDE * (high - low), RED, 0.5)
        length = COUNTS * count / most
        yield _bar(x, bottom + COUNTS - length, length, GREY, 1.0)
    yield (
        f'<path d="M{left} {bottom}L{left + SIDE} {top}" stroke="#222" stroke-dasharray="4 3"/>'
        f'<path d="M{left} {top}V{bottom}H{left + SIDE}" fill="none" stroke="#222"/>'
    )
    for tick in (0, 0.5, 1):
        yield _text(left - 6, bottom - SIDE * tick + 4, "end", f"{tick:g}")
        yield _text(left + SIDE * tick, bottom + COUNTS + 16, "middle", f"{tick:g}")
    middle = left + SIDE / 2
    yield _text(middle, bottom + COUNTS + 34, "middle", f"score (grey: images, {most:,} at most)")
    yield _text(middle, top - 28, "middle", title)
    yield _text(middle, top - 10, "middle", f"calibration error {bins.error:.4f}")


def _bar(x: float, y: float, height: float, colour: str, opacity: float) -> str:
    width = SIDE / BINS - 1
    return (
        f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'fill="{colour}" opacity="{opacity}"/>'
    )


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
