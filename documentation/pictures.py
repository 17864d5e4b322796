"""Draws the pictures of the documents: python -m documentation.pictures

Timelines show what the real batcher does, the chart what benchmarks/results has; so a change there
is a change here, and a test says so.
"""

import math
import re
from pathlib import Path

from documentation.drawing import Picture
from documentation.timeline import draw, tell

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"

LIGHT = (3, 9, 27, 43, 62, 66)
FULL = (2, 4, 7, 10, 12, 15, 17, 20, 22, 25, 28, 30, 33, 35, 38, 41, 43, 46, 48, 51)


def pictures() -> dict[str, str]:
    """Every picture by its file's name."""
    return {
        "path": path_of_a_request(),
        "xcit-network": network(),
        "xcit-attention": attention(),
        "xcit-local": neighbours_and_class(),
        "xcit-cost": cost(),
        "batcher-light": draw(tell(LIGHT), "Under light load every image runs at once, alone"),
        "batcher-delay": draw(
            tell(LIGHT, delay=10), "With a delay of 10 ms every image waits for company"
        ),
        "batcher-full": draw(tell(FULL), "Under full load batches grow while streams are busy"),
        "batcher-lost": draw(
            tell(FULL[:14], leaving={8: 5, 9: 4}),
            "An image whose caller left takes no place in a batch",
        ),
    }


def path_of_a_request() -> str:
    picture = Picture(
        760, 190, "The path of a request: door, body, decoding, queue, stream, answer"
    )
    steps = [
        ("door", "key, deadline,", "is there room?"),
        ("body", "bytes counted", "as they come"),
        ("decode", "a thread", "for each core"),
        ("queue", "who waits,", "oldest first"),
        ("streams", "a batch each,", "side by side"),
    ]
    kinds = ["three", "three", "one", "one", "two"]
    for i, (lines, kind) in enumerate(zip(steps, kinds, strict=True)):
        x = 10 + 150 * i
        picture.box(x, 40, 122, 76, *lines, kind=kind)
        if i:
            picture.arrow(x - 27, 78, x - 2, 78)
    refusals = ["401, 422, 503", "400, 408, 413", "400, 413, 415", "504", "500, 503"]
    for i, refusal in enumerate(refusals):
        picture.arrow(71 + 150 * i, 117, 71 + 150 * i, 146)
        picture.text(71 + 150 * i, 164, refusal, "soft")
    picture.text(10, 24, "a request", "soft", "start")
    picture.text(732, 24, "200, to each caller its own", "soft", "end")
    return picture.svg()


def network() -> str:
    picture = Picture(
        760, 250, "XCiT: patches become tokens, layers mix them, a class token reads them"
    )
    for row in range(4):
        for column in range(4):
            picture.rect(
                14 + 22 * column, 84 + 22 * row, 20, 20, "three" if (row + column) % 2 else "none"
            )
    picture.text(57, 192, "an image,", "soft")
    picture.text(57, 208, "cut into patches", "soft")
    picture.arrow(108, 128, 138, 128)
    for i in range(6):
        picture.rect(146, 74 + 18 * i, 56, 14, "three")
    picture.text(174, 204, "n tokens of", "soft")
    picture.text(174, 220, "d channels each", "soft")
    picture.arrow(210, 128, 240, 128)
    picture.rect(246, 34, 236, 186, "none")
    picture.text(364, 58, "depth times, each added to its input", "soft")
    picture.box(256, 70, 216, 40, "cross-covariance attention", kind="one")
    picture.box(256, 118, 216, 40, "local patch interaction", kind="three")
    picture.box(256, 166, 216, 40, "feed-forward", kind="two")
    picture.arrow(488, 128, 518, 128)
    picture.box(522, 88, 126, 80, "class attention", "one class token", "reads all patches")
    picture.arrow(652, 128, 682, 128)
    picture.box(688, 88, 62, 80, "head", "a score", "a class", kind="two")
    return picture.svg()


def attention() -> str:
    picture = Picture(
        760, 300, "Attention between tokens has n by n weights, between channels c by c"
    )
    picture.text(190, 24, "between tokens", "bold")
    picture.box(20, 70, 44, 160, "Q", kind="one")
    picture.text(42, 250, "n × c", "soft")
    picture.text(80, 155, "·")
    picture.box(96, 128, 110, 44, "Kᵀ", kind="three")
    picture.text(151, 192, "c × n", "soft")
    picture.text(222, 155, "=")
    picture.box(238, 70, 130, 160, "weights", "each token", "of each token", kind="two")
    picture.text(303, 250, "n × n: four times as many", "soft")
    picture.text(303, 266, "for twice the tokens", "soft")
    picture.line(396, 20, 396, 280, "dash")
    picture.text(578, 24, "between channels, as XCiT does", "bold")
    picture.box(424, 128, 110, 44, "Qᵀ", kind="one")
    picture.text(479, 192, "c × n", "soft")
    picture.text(550, 155, "·")
    picture.box(566, 70, 44, 160, "K", kind="three")
    picture.text(588, 250, "n × c", "soft")
    picture.text(628, 155, "=")
    picture.rect(648, 128, 44, 44, "two")
    picture.text(670, 118, "weights", "bold")
    picture.text(630, 192, "c × c: the same", "soft", "start")
    picture.text(630, 208, "at every resolution", "soft", "start")
    return picture.svg()


def neighbours_and_class() -> str:
    picture = Picture(
        760, 250, "Local patch interaction reads neighbours, class attention all patches"
    )
    picture.text(190, 24, "local patch interaction", "bold")
    for row in range(6):
        for column in range(6):
            near = row in {1, 2, 3} and column in {2, 3, 4}
            kind = "two" if (row, column) == (2, 3) else "three" if near else "none"
            picture.rect(106 + 28 * column, 44 + 28 * row, 25, 25, kind)
    picture.text(190, 234, "a patch hears its neighbours, channel by channel", "soft")
    picture.line(378, 20, 378, 236, "dash")
    picture.text(575, 24, "class attention", "bold")
    for i in range(8):
        x = 430 + 38 * i
        picture.rect(x, 160, 30, 30, "three")
        picture.line(x + 15, 160, 575, 92, "thick" if i in {2, 3, 5} else "")
    picture.box(525, 52, 100, 40, "class token", kind="two")
    picture.text(575, 210, "n + 1 weights a head, one for itself; drawn over the", "soft")
    picture.text(575, 226, "image they are the picture of POST /explain", "soft")
    return picture.svg()


def cost() -> str:
    """Time against tokens, both by powers, from benchmarks/results/scaling.md."""
    text = (ROOT / "benchmarks" / "results" / "scaling.md").read_text()
    found = re.findall(r"^\| \d+ \| ([\d,]+) \| ([\d,.]+) \| ([\d,.]+) \|", text, re.MULTILINE)
    rows = [tuple(float(cell.replace(",", "")) for cell in row) for row in found]
    picture = Picture(760, 360, "Time of a pass against tokens, XCiT and a plain ViT")

    def place(tokens: float, milliseconds: float) -> tuple[float, float]:
        return 80 + 240 * math.log10(tokens / 40), 310 - 80 * math.log10(milliseconds / 10)

    for power in (10, 100, 1000, 10_000):
        _, y = place(40, power)
        picture.line(80, y, 640, y, "dash")
        picture.text(72, y + 4, f"{power:,} ms", "soft", "end")
    for tokens, *_ in rows:
        x, _ = place(tokens, 10)
        picture.line(x, 310, x, 315)
        picture.text(x, 332, f"{tokens:,.0f}", "soft")
    picture.text(360, 352, "tokens", "soft")
    for column, name, kind, dot in ((1, "XCiT", "thick", "deep"), (2, "ViT", "hot", "warm")):
        points = [place(row[0], row[column]) for row in rows]
        picture.curve(points, kind)
        for x, y in points:
            picture.circle(x, y, 3.5, dot)
        x, y = points[-1]
        picture.text(x + 12, y + 5, f"{name}, {rows[-1][column] / 1e3:.1f} s", "bold", "start")
    return picture.svg()


def main() -> None:
    for name, svg in pictures().items():
        (FOLDER / f"{name}.svg").write_text(svg)


if __name__ == "__main__":
    main()
