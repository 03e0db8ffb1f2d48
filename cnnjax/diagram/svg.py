"""A canvas that writes SVG: self-contained, with text as text, in colors for light and dark pages."""

import html
from collections.abc import Sequence

FONT_SIZE = 11
TITLE_SIZE = 14
MARGIN = 12
STYLE = """
text { font: 11px Helvetica, Arial, sans-serif; fill: #1c1c1c; }
.title { font-size: 14px; font-weight: bold; } .dim { fill: #5c5c5c; } .end { text-anchor: end; }
.middle { text-anchor: middle; } .count { font-weight: bold; }
.page { fill: #ffffff; } .stage { fill: #f5f5f3; stroke: #c9c9c4; } .block { fill: #ffffff; stroke: #a5a5a0; }
.line, .branch, .shortcut { fill: none; stroke: #444444; stroke-width: 1.2; } .tip { fill: #444444; }
.shortcut { stroke: #b03a2e; } .shortcut-tip { fill: #b03a2e; }
.conv { fill: #dce9f7; stroke: #4b7db3; } .pool { fill: #e2f0da; stroke: #64964a; }
.dense { fill: #fbe5d2; stroke: #bf7a35; } .other, .input { fill: #ececec; stroke: #8a8a8a; }
.merge { fill: #fdf3cc; stroke: #a88a24; }
@media (prefers-color-scheme: dark) {
text { fill: #ececec; } .dim { fill: #a8a8a8; }
.page { fill: #161618; } .stage { fill: #202023; stroke: #47474b; } .block { fill: #161618; stroke: #66666b; }
.line, .branch, .shortcut { stroke: #b8b8b8; } .tip { fill: #b8b8b8; }
.shortcut { stroke: #f0857a; } .shortcut-tip { fill: #f0857a; }
.conv { fill: #1f3a57; stroke: #6ea3dc; } .pool { fill: #25401a; stroke: #86bd69; }
.dense { fill: #51331a; stroke: #dd9a57; } .other, .input { fill: #38383c; stroke: #97979c; }
.merge { fill: #4a3f12; stroke: #cdb04a; }
}
"""
NARROW, WIDE = frozenset("ijlt.,;:'|()[]/ f"), frozenset("mMWw×+")
TIP = 5
"""Length of an arrowhead."""

Point = tuple[float, float]


def text_width(text: str, size: float = FONT_SIZE) -> float:
    """Return an upper estimate of the width of a text in pixels."""
    widths = (0.3 if c in NARROW else 0.85 if c in WIDE else 0.72 if c.isupper() else 0.57 for c in text)
    return size * sum(widths)


class Canvas:
    """Shapes in the order of drawing, and the area that they cover."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.right = self.bottom = 0.0

    def rect(self, x: float, y: float, width: float, height: float, kind: str, radius: float = 3) -> None:
        self.cover(x + width, y + height)
        self.parts.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}"/>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "", size: float = FONT_SIZE) -> None:
        """Write a text from x, or up to x with the class ``end``, or around x with ``middle``."""
        share = 0 if "end" in kind.split() else 0.5 if "middle" in kind.split() else 1
        self.cover(x + share * text_width(text, size), y + 3)
        css = f' class="{kind}"' if kind else ""
        self.parts.append(f'<text{css} x="{x:.1f}" y="{y:.1f}">{html.escape(text)}</text>')

    def paragraph(self, text: str, kind: str) -> None:
        """Write a text below everything, in lines as wide as the drawing."""
        lines, y = [""], self.bottom + 2 * FONT_SIZE
        for word in text.split(" "):  # not at a no-break space
            longer = f"{lines[-1]} {word}".strip(" ")
            if text_width(longer) > self.right - MARGIN and lines[-1]:
                lines.append(word)
            else:
                lines[-1] = longer
        for number, line in enumerate(lines):
            self.text(MARGIN, y + number * 14, line, kind)

    def line(self, points: Sequence[Point], kind: str = "line", *, arrow: bool = True) -> None:
        """Draw a line along horizontal and vertical parts with round corners, by default with an arrowhead."""
        (x1, y1), (x2, y2) = points[-2:]
        self.cover(max(x for x, _ in points) + 2, max(y for _, y in points) + 2)
        dx, dy = _sign(x2 - x1), _sign(y2 - y1)
        end = (x2 - dx * TIP, y2 - dy * TIP) if arrow else (x2, y2)
        self.parts.append(f'<path class="{kind}" d="{_rounded([*points[:-1], end])}"/>')
        if arrow:
            wing = TIP * 0.6
            corners = ((x2, y2), (end[0] - dy * wing, end[1] + dx * wing), (end[0] + dy * wing, end[1] - dx * wing))
            drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
            self.parts.append(
                f'<polygon class="{"shortcut-tip" if kind.startswith("shortcut") else "tip"}" points="{drawn}"/>'
            )

    def cover(self, x: float, y: float) -> None:
        self.right, self.bottom = max(self.right, x), max(self.bottom, y)

    def svg(self, title: str, description: str) -> str:
        """Return the document."""
        width, height = self.right + MARGIN, self.bottom + MARGIN
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">\n'
            f"<title>{html.escape(title)}</title>\n<desc>{html.escape(description)}</desc>\n<style>{STYLE}</style>\n"
            f'<rect class="page" width="{width:.0f}" height="{height:.0f}"/>\n{body}\n</svg>\n'
        )


def _rounded(points: Sequence[Point], radius: float = 6) -> str:
    """Return the data of a path whose corners are quarter circles."""
    commands = [f"M{points[0][0]:.1f},{points[0][1]:.1f}"]
    for (x0, y0), (x, y), (x2, y2) in zip(points, points[1:], points[2:], strict=False):
        r = min(radius, (abs(x - x0) + abs(y - y0)) / 2, (abs(x2 - x) + abs(y2 - y)) / 2)
        start, end = (x - r * _sign(x - x0), y - r * _sign(y - y0)), (x + r * _sign(x2 - x), y + r * _sign(y2 - y))
        commands.append(f"L{start[0]:.1f},{start[1]:.1f}Q{x:.1f},{y:.1f} {end[0]:.1f},{end[1]:.1f}")
    return "".join(commands) + f"L{points[-1][0]:.1f},{points[-1][1]:.1f}"


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
