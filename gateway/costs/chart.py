"""Charts of the cost page as inline SVG: bars of the bill, prices as ranges, and break-even; no script, no files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2f6fdb", "#d9822b", "#b83280", "#2f855a", "#805ad5", "#0f8b8d", "#a0522d", "#718096")
IDLE_COLOUR = "#cbd5e0"
WIDTH, LEFT, RIGHT = 640, 190, 20
_ROW = 26
_CURVE_POINTS = 60
_LEGEND_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Bar:
    """One amount in USD."""

    name: str
    usd: float
    colour: str


@dataclass(frozen=True, slots=True)
class Whisker:
    """A likely amount in USD, and between what it lies; equal ends are drawn as a point."""

    name: str
    low: float
    typical: float
    high: float
    colour: str


@dataclass(frozen=True, slots=True)
class Curve:
    """Cost a day over requests a day."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    is_step: bool = False


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Amounts beside each other; nothing when all are 0."""
    most = max((row.usd for row in rows), default=0.0)
    if most <= 0:
        return ""
    parts = []
    for place, row in enumerate(rows):
        top = 36 + place * _ROW
        width = row.usd / most * (WIDTH - LEFT - RIGHT - 90)
        parts += [
            _text(LEFT - 8, top + 13, row.name, "end"),
            f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="18" fill="{row.colour}" rx="2"/>',
            _text(LEFT + width + 6, top + 13, usd(row.usd)),
        ]
    return _svg(title, 36 + len(rows) * _ROW + 8, parts)


def whiskers(title: str, rows: Sequence[Whisker]) -> str:
    """Ranges on one logarithmic axis; amounts of 0 cannot be drawn and are left out."""
    drawn = [row for row in rows if row.low > 0]
    if not drawn:
        return ""
    low, high = _decades(min(row.low for row in drawn), max(row.high for row in drawn))
    bottom = 36 + len(drawn) * _ROW

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = []
    for decade in range(low, high + 1):
        at = x(10.0**decade)
        parts += [
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="30" y2="{bottom}" class="grid"/>',
            _text(at, bottom + 16, usd(10.0**decade), "middle"),
        ]
    for place, row in enumerate(drawn):
        y = 36 + place * _ROW + 9
        tip = f"<title>{escape(f'{row.name}: {usd(row.low)} to {usd(row.high)}, likely {usd(row.typical)}')}</title>"
        parts += [
            _text(LEFT - 8, y + 4, row.name, "end"),
            f'<line x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y}" y2="{y}" stroke="{row.colour}" '
            f'stroke-width="3" stroke-linecap="round"/>',
            f'<circle cx="{x(row.typical):.1f}" cy="{y}" r="5" fill="{row.colour}">{tip}</circle>',
        ]
    return _svg(title, bottom + 28, parts)


def curves(title: str, x_label: str, y_label: str, lines: Sequence[Curve], mark: float | None = None) -> str:
    """Lines on two logarithmic axes; `mark` is where we are, as a vertical line."""
    points = [point for line in lines for point in line.points if point[0] > 0 and point[1] > 0]
    if not points:
        return ""
    left, top = 70, 40 + 16 * -(-len(lines) // _LEGEND_COLUMNS)
    bottom = top + 240
    x_low, x_high = _decades(min(x for x, _ in points), max(x for x, _ in points))
    y_low, y_high = _decades(min(y for _, y in points), max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low) * (WIDTH - left - RIGHT)
        return left + across, bottom - (math.log10(y) - y_low) / (y_high - y_low) * (bottom - top)

    parts = []
    for decade in range(x_low, x_high + 1):
        at, _ = place(10.0**decade, 10.0**y_low)
        parts += [
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}" class="grid"/>',
            _text(at, bottom + 16, count(decade), "middle"),
        ]
    for decade in range(y_low, y_high + 1):
        _, at = place(10.0**x_low, 10.0**decade)
        parts += [
            f'<line x1="{left}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>',
            _text(left - 6, at + 4, usd(10.0**decade), "end"),
        ]
    for line in lines:
        spots = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line.points if x > 0 and y > 0)
        width = 3 if line.is_step else 1.8
        parts.append(f'<polyline points="{spots}" fill="none" stroke="{line.colour}" stroke-width="{width}"/>')
    if mark and 10.0**x_low <= mark <= 10.0**x_high:
        at, _ = place(mark, 10.0**y_low)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}" class="mark"/>')
        parts.append(_text(at + 4, top + 12, "now"))
    parts += [*_legend(lines), _text((left + WIDTH - RIGHT) / 2, bottom + 36, x_label, "middle")]
    middle = (top + bottom) / 2
    parts.append(
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{escape(y_label)}</text>'
    )
    return _svg(title, bottom + 56, parts)


def usd(amount: float) -> str:
    """An amount as a label: as many digits as it needs, no exponent."""
    if amount >= 100:
        return f"${amount:,.0f}"
    digits = max(2, 2 - math.floor(math.log10(amount))) if amount > 0 else 2
    return f"${amount:.{digits}f}"


def count(decade: int) -> str:
    """A power of ten as a label."""
    for least, letter in ((9, "G"), (6, "M"), (3, "k")):
        if decade >= least:
            return f"{10 ** (decade - least)}{letter}"
    return f"{10.0**decade:g}"


def spread(first: float, last: float) -> list[float]:
    """Values from first to last, evenly on a logarithmic axis."""
    return [first * (last / first) ** (step / (_CURVE_POINTS - 1)) for step in range(_CURVE_POINTS)]


def _legend(lines: Sequence[Curve]) -> list[str]:
    parts = []
    for number, line in enumerate(lines):
        x, y = 70 + number % _LEGEND_COLUMNS * 185, 26 + number // _LEGEND_COLUMNS * 16
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" fill="{line.colour}"/>')
        parts.append(_text(x + 14, y + 9, line.name))
    return parts


def _decades(low: float, high: float) -> tuple[int, int]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)
    return first, max(last, first + 1)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f'<text x="10" y="16" class="title">{escape(title)}</text>{"".join(parts)}</svg>'
    )
