"""Line charts as inline SVG: no script, no fonts or files from elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 46
COLOURS = ("#2f6fdb", "#d9822b", "#b83280", "#2f855a", "#805ad5", "#718096")


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name and its points; points may carry a label for who hovers over them."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()


def line_chart(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """An SVG element; empty text when there is nothing to draw."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return ""
    x_most = nice_top(max(x for one in drawn for x, _ in one.points))
    y_most = nice_top(max(y for one in drawn for _, y in one.points))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + x / x_most * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / y_most * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text x="{LEFT}" y="16" class="title">{escape(title)}</text>',
    ]
    for step in range(5):
        left, low = place(0, y_most * step / 4)
        right, bottom = place(x_most * step / 4, 0)
        parts += [
            f'<line x1="{left:.1f}" x2="{WIDTH - RIGHT}" y1="{low:.1f}" y2="{low:.1f}" class="grid"/>',
            f'<text x="{left - 6:.1f}" y="{low + 4:.1f}" text-anchor="end">{y_most * step / 4:.3g}</text>',
            f'<text x="{right:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{x_most * step / 4:.3g}</text>',
        ]
    parts += [
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 12 {HEIGHT / 2})">'
        f"{escape(y_label)}</text>",
    ]
    for number, one in enumerate(drawn):
        parts += _line(one, COLOURS[number % len(COLOURS)], number, [place(x, y) for x, y in one.points])
    return "".join([*parts, "</svg>"])


def nice_top(most: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `most`."""
    if most <= 0 or not math.isfinite(most):
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= most * (1 - 1e-9))


def _line(one: Series, colour: str, number: int, places: list[tuple[float, float]]) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    if len(places) <= 60:
        for (x, y), (real_x, real_y), label in zip(places, one.points, _labels(one), strict=True):
            tip = f"{label}{one.name}: {real_x:.4g}, {real_y:.4g}"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{escape(tip)}</title></circle>'
            )
    at = LEFT + 8 + 120 * number
    parts += [
        f'<rect x="{at}" y="22" width="10" height="10" fill="{colour}"/>',
        f'<text x="{at + 14}" y="31">{escape(one.name)}</text>',
    ]
    return parts


def _labels(one: Series) -> list[str]:
    return [f"{label}: " for label in one.labels] if one.labels else [""] * len(one.points)
