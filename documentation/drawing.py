"""A picture in SVG, in the few shapes that the documents need.

Its colours follow the reader's preference for light or dark, as those of the site do, and its
words are text.
"""

from xml.sax.saxutils import escape

STYLE = """
svg {
  --ink: #1f2430; --paper: #fff; --soft: #5b6472; --line: #9aa3b2; --deep: #3650c8;
  --warm: #b45309; --one: #c7d7fe; --two: #fde0b6; --three: #c8ecd3;
  font: 14px system-ui, sans-serif;
}
@media (prefers-color-scheme: dark) { svg {
  --ink: #e8eaf0; --paper: #14171f; --soft: #a4adbd; --line: #6b7587; --deep: #9db2ff;
  --warm: #f5b05c; --one: #31458c; --two: #7a4a14; --three: #20613a;
} }
text { fill: var(--ink) }
.bold { font-weight: 600 }
.small { font-size: 12px }
.soft { font-size: 12.5px; fill: var(--soft) }
.number { font-size: 10.5px; font-weight: 600; fill: var(--paper) }
rect, circle { stroke: var(--line) }
.none { fill: none }
.one { fill: var(--one) }
.two { fill: var(--two) }
.three { fill: var(--three) }
.deep { fill: var(--deep); stroke: none }
.warm { fill: var(--warm); stroke: none }
line, path { stroke: var(--line); stroke-width: 1.5; fill: none }
.head { fill: var(--line) }
.thick { stroke: var(--deep); stroke-width: 2.5 }
.hot { stroke: var(--warm); stroke-width: 2.5 }
.dash { stroke-dasharray: 3 4 }
"""


class Picture:
    """Shapes on a plane whose origin is at the top left."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._width, self._height, self._title = width, height, title
        self._shapes: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, kind: str = "one") -> None:
        place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self._shapes.append(f'<rect class="{kind}" {place} rx="3"/>')

    def circle(self, x: float, y: float, radius: float, kind: str = "one") -> None:
        self._shapes.append(f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "") -> None:
        place = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
        self._shapes.append(f'<line class="{kind}" {place}/>')

    def curve(self, points: list[tuple[float, float]], kind: str) -> None:
        steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._shapes.append(f'<path class="{kind}" d="M {steps}"/>')

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """A line with a head, across or down."""
        self.line(x1, y1, x2, y2)
        back, wing = (-8, 4) if x2 >= x1 and y2 >= y1 else (8, 4)
        corners = (
            [(x2, y2), (x2 + back, y2 - wing), (x2 + back, y2 + wing)]
            if y1 == y2
            else [(x2, y2), (x2 - wing, y2 + back), (x2 + wing, y2 + back)]
        )
        steps = " ".join(f"{x:g},{y:g}" for x, y in corners)
        self._shapes.append(f'<path class="head" d="M {steps} Z"/>')

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
        self._shapes.append(f'<text class="{kind}" {place}>{escape(words)}</text>')

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, kind: str = "one"
    ) -> None:
        """A rectangle with words in it, the first of them bold."""
        self.rect(x, y, width, height, kind)
        top = y + height / 2 + 5 - 9 * (len(lines) - 1)
        for i, words in enumerate(lines):
            self.text(x + width / 2, top + 18 * i, words, "small" if i else "bold")

    def svg(self) -> str:
        size = f'viewBox="0 0 {self._width} {self._height}" width="{self._width}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
        title = f"<title>{escape(self._title)}</title>"
        return "\n".join([head, title, f"<style>{STYLE}</style>", *self._shapes, "</svg>\n"])
