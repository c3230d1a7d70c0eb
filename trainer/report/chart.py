"""Charts of a decision as inline SVG: figures with their intervals, and bars; no script, nothing from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

CANDIDATE, RIVAL, OTHER = "#2f6fdb", "#d9822b", "#8a94a6"
WIDTH, LEFT, RIGHT = 600, 170, 66
_ROW, _TOP = 26, 34
_LONGEST_NAME = 26


@dataclass(frozen=True, slots=True)
class Mark:
    """A figure and between what it lies; `label` is how it is written."""

    name: str
    value: float
    low: float
    high: float
    label: str
    colour: str


def intervals(title: str, marks: Sequence[Mark], low: float, high: float, *, at: float | None = None) -> str:
    """Figures with intervals on one axis from `low` to `high`; `at` draws a line that they are held against."""
    if not marks or high <= low:
        return ""
    bottom = _TOP + len(marks) * _ROW

    def x(value: float) -> float:
        return LEFT + (min(max(value, low), high) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = []
    for step in range(5):
        value = low + (high - low) * step / 4
        parts += [
            _line(x(value), _TOP - 6, x(value), bottom, "grid"),
            _text(x(value), bottom + 15, f"{value:.0%}", "middle"),
        ]
    if at is not None and low <= at <= high:
        parts.append(_line(x(at), _TOP - 6, x(at), bottom, "mark"))
    for place, mark in enumerate(marks):
        y = _TOP + place * _ROW + 9
        tip = escape(f"{mark.name}: {mark.label}, 95 % interval {mark.low:.1%} to {mark.high:.1%}")
        parts += [
            _text(LEFT - 8, y + 4, _short(mark.name), "end"),
            f'<line x1="{x(mark.low):.1f}" x2="{x(mark.high):.1f}" y1="{y}" y2="{y}" stroke="{mark.colour}" '
            f'stroke-width="3" stroke-linecap="round"/>',
            f'<circle cx="{x(mark.value):.1f}" cy="{y}" r="5" fill="{mark.colour}"><title>{tip}</title></circle>',
            _text(WIDTH - 6, y + 4, mark.label, "end"),
        ]
    return _svg(title, bottom + 26, parts)


def bars(title: str, rows: Sequence[tuple[str, float, str, str]]) -> str:
    """Amounts beside each other, each with its name, how it is written and its colour; empty when all are 0."""
    most = max((amount for _, amount, *_ in rows), default=0.0)
    if most <= 0:
        return ""
    parts = []
    for place, (name, amount, label, colour) in enumerate(rows):
        y = _TOP + place * _ROW
        width = amount / most * (WIDTH - LEFT - RIGHT - 30)
        parts += [
            _text(LEFT - 8, y + 13, _short(name), "end"),
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="18" rx="2" fill="{colour}"/>',
            _text(LEFT + width + 6, y + 13, label),
        ]
    return _svg(title, _TOP + len(rows) * _ROW + 8, parts)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f'<text x="10" y="16" class="title">{escape(title)}</text>{"".join(parts)}</svg>'
    )
