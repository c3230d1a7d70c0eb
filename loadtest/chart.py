"""Charts as inline SVG, of lines and of bars: no script, no fonts or files from elsewhere."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 46, 46
COLOURS = ("#2f6fdb", "#d9822b", "#b83280", "#2f855a", "#805ad5", "#718096")
LIMIT_COLOUR = "#c53030"
BAR, BAR_GAP, NAME_ROOM = 11, 10, 17
MOST_NAME = 48
CHARACTER = 6.4
"""Width of a character in a legend, a little generous."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: its name and its points; points may carry a label for who hovers over them."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """A value that must be kept, drawn as a broken line: across the chart, or up from the horizontal axis."""

    name: str
    value: float
    is_upright: bool = False


def line_chart(title: str, x_label: str, y_label: str, series: Sequence[Series], limits: Sequence[Limit] = ()) -> str:
    """An SVG element; empty text when there is nothing to draw."""
    drawn = [one for one in series if one.points]
    if not drawn:
        return ""
    x_most = nice_top(
        max([x for one in drawn for x, _ in one.points] + [one.value for one in limits if one.is_upright])
    )
    y_most = nice_top(
        max([y for one in drawn for _, y in one.points] + [one.value for one in limits if not one.is_upright])
    )

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + x / x_most * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - y / y_most * (HEIGHT - TOP - BOTTOM),
        )

    parts = _frame(title, HEIGHT, drawn)
    for step in range(5):
        left, low = place(0, y_most * step / 4)
        right, bottom = place(x_most * step / 4, 0)
        parts += [
            f'<line x1="{left:.1f}" x2="{WIDTH - RIGHT}" y1="{low:.1f}" y2="{low:.1f}" class="grid"/>',
            f'<text x="{left - 6:.1f}" y="{low + 4:.1f}" text-anchor="end">{in_digits(y_most * step / 4)}</text>',
            f'<text x="{right:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{in_digits(x_most * step / 4)}</text>',
        ]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts += [
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(y_label)}</text>',
    ]
    for number, one in enumerate(drawn):
        parts += _line(one, COLOURS[number % len(COLOURS)], [place(x, y) for x, y in one.points])
    for number, limit in enumerate(limits):
        from_ = place(limit.value, 0) if limit.is_upright else place(0, limit.value)
        to = place(limit.value, y_most) if limit.is_upright else place(x_most, limit.value)
        parts += _limit_line(limit.name, from_, to, number)
    return "".join([*parts, "</svg>"])


def bar_chart(
    title: str,
    unit: str,
    groups: Sequence[tuple[str, Sequence[float]]],
    names: Sequence[str],
    limit: Limit | None = None,
) -> str:
    """Groups of bars that lie, each group under its name and each bar with its value; empty text without any."""
    if not groups:
        return ""
    most = nice_top(max([max(values) for _, values in groups] + ([limit.value] if limit else [])))
    group_height = NAME_ROOM + len(names) * BAR + BAR_GAP
    height = TOP + len(groups) * group_height + (BAR_GAP if limit else 0)
    room = WIDTH - 2 * RIGHT - 70
    parts = _frame(f"{title}, {unit}", height, [Series(name, [(0, 0)]) for name in names])
    for number, (name, values) in enumerate(groups):
        top = TOP + number * group_height
        short = name if len(name) <= MOST_NAME else name[: MOST_NAME - 1] + "…"
        parts.append(f'<text x="{RIGHT}" y="{top + 12}"><title>{escape(name)}</title>{escape(short)}</text>')
        for place, value in enumerate(values):
            y, long = top + NAME_ROOM + place * BAR, max(1.0, value / most * room)
            colour = COLOURS[place % len(COLOURS)]
            parts += [
                f'<rect x="{RIGHT}" y="{y}" width="{long:.1f}" height="{BAR - 1}" fill="{colour}"/>',
                f'<text x="{RIGHT + long + 5:.1f}" y="{y + 9}" class="small">{in_digits(value)}</text>',
            ]
    if limit:
        x = RIGHT + limit.value / most * room
        parts += _limit_line(limit.name, (x, height - BAR_GAP), (x, TOP))
    return "".join([*parts, "</svg>"])


def in_digits(value: float) -> str:
    """A number as people write it: three significant digits, thousands grouped, no exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = max(0, min(9, 2 - math.floor(math.log10(abs(value)))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def nice_top(most: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `most`."""
    if most <= 0 or not math.isfinite(most):
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= most * (1 - 1e-9))


def _frame(title: str, height: float, series: Sequence[Series]) -> list[str]:
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f'<text x="{RIGHT}" y="18" class="title">{escape(title)}</text>',
    ]
    at: float = RIGHT
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        parts += [
            f'<rect x="{at:.0f}" y="27" width="10" height="10" fill="{colour}"/>',
            f'<text x="{at + 14:.0f}" y="36">{escape(one.name)}</text>',
        ]
        at += 28 + CHARACTER * len(one.name)
    return parts


def _line(one: Series, colour: str, places: list[tuple[float, float]]) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    if len(places) <= 60:
        for (x, y), (real_x, real_y), label in zip(places, one.points, _labels(one), strict=True):
            tip = f"{label}{one.name}: {in_digits(real_x)}, {in_digits(real_y)}"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{escape(tip)}</title></circle>'
            )
    return parts


def _limit_line(name: str, start: tuple[float, float], end: tuple[float, float], above: int = 0) -> list[str]:
    # Its name is beside the legend, where it hides nothing.
    (x1, y1), (x2, y2) = start, end
    return [
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="limit" stroke="{LIMIT_COLOUR}" '
        f'stroke-dasharray="6 4"/>',
        f'<text x="{WIDTH - RIGHT}" y="{36 - 18 * above}" text-anchor="end" class="limit">{escape(name)}</text>',
    ]


def _labels(one: Series) -> list[str]:
    return [f"{label}: " for label in one.labels] if one.labels else [""] * len(one.points)
