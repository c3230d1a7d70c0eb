"""Charts: lines over an axis, bars, and ranges, each with the limit it is about; nothing is drawn from no figures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from turntable.pages.numbers import COUNT, Unit
from turntable.pages.scales import Scale, linear, logarithmic
from turntable.pages.svg import CHARACTER, LINE, WIDTH, Drawing, shortened, width_of

_PLOT_HEIGHT = 210
_RIGHT = 14
_TICK_GAP = 6
_MOST_MARKERS = 40
_MOST_DESCRIBED = 8
_ROW, _BAR, _ROW_GAP = 18, 13, 12
_RANGE_HEIGHT = 40
_MARGIN = 6
_BOLD = 1.06
"""Width of semibold text over that of plain text."""
_BELOW_TICKS, _BELOW_AXIS = 26, 46
_VALUE = 100
"""Room for the value beside a bar."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows; it begins at 0 unless it is logarithmic, and goes at least to `low` and `high`."""

    label: str
    unit: Unit = COUNT
    is_log: bool = False
    low: float | None = None
    high: float | None = None

    def scale(self, values: Iterable[float], intervals: int = 5) -> Scale:
        """Build the scale that shows all values; on a logarithmic axis those above 0."""
        known = [*values, *(end for end in (self.low, self.high) if end is not None)]
        if self.is_log:
            above = [value for value in known if value > 0]
            return logarithmic(min(above), max(above), intervals)
        return linear(min([0.0, *known] if self.low is None else known), max(known), intervals)


@dataclass(frozen=True, slots=True)
class Series:
    """One line; points may carry labels, shown when pointed at."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    has_markers: bool = True


@dataclass(frozen=True, slots=True)
class Limit:
    """A value to keep or to reach, drawn as a broken line; `is_upright` is one of the horizontal axis."""

    name: str
    value: float
    is_upright: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a bar chart: named parts and their values, one after the other or one below the other."""

    name: str
    parts: Sequence[tuple[str, float]]
    tone: int | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """A value and the interval it lies in; `label` is how it is written."""

    name: str
    low: float
    value: float
    high: float
    label: str
    tone: int = 0


def lines(title: str, x: Axis, y: Axis, series: Sequence[Series], limits: Sequence[Limit] = ()) -> Drawing | None:
    """Draw lines over two axes; None when no series has a point that the axes can show."""
    drawn = [(tone, one, points) for tone, one in enumerate(series) if (points := _visible(one, x, y))]
    if not drawn:
        return None
    upright, level = [one for one in limits if one.is_upright], [one for one in limits if not one.is_upright]
    across = x.scale([*(at for _, _, row in drawn for at, _ in row), *(one.value for one in upright)])
    up = y.scale([*(at for _, _, row in drawn for _, at in row), *(one.value for one in level)])
    chart = Drawing(title, description=f"{y.unit.in_title(y.label)} over {x.unit.in_title(x.label)}.")
    top = LINE - 4.0
    if len(drawn) > 1:
        top += chart.legend([(one.name, tone) for tone, one, _ in drawn], top, lines=True) + 4
    chart.text(0, top, y.unit.in_title(y.label), kind="axis")
    top += 16
    left = max(width_of(y.unit.tick(tick)) for tick in up.ticks) + _TICK_GAP
    plot = _Plot(chart, across, up, left, top + LINE * len(upright), WIDTH - _RIGHT)
    plot.axes(x, y)
    _upright_limits(chart, upright, plot.x, top, plot.bottom)
    for limit in level:
        chart.limit(limit.name, (plot.left, plot.y(limit.value)), (plot.right, plot.y(limit.value)))
    for tone, one, points in drawn:
        plot.series(one, points, tone, x, y)
    plot.limit_names(level)
    chart.height = plot.bottom + _BELOW_AXIS
    return chart


def bars(
    title: str, unit: Unit, rows: Sequence[Bar], *, stacked: bool = False, limit: Limit | None = None
) -> Drawing | None:
    """Draw bars under their names; None when all values are 0. Parts are stacked, or lie one below the other."""
    sizes = [(sum if stacked else max)(value for _, value in row.parts) for row in rows]
    if not sizes or max(sizes) <= 0:
        return None
    most = max([*sizes, *([limit.value] if limit else [])])
    names = list(dict.fromkeys(name for row in rows for name, _ in row.parts))
    tones = {name: tone for tone, name in enumerate(names)}
    chart, top = Drawing(title), 0.0
    chart.description = _described((row.name, unit.text(size)) for row, size in zip(rows, sizes, strict=True))
    if stacked and len(names) > 1:
        top = chart.legend(list(tones.items()), LINE - 4.0, lines=False) + 6
    begin, has_labels = top, len(names) > 1 and not stacked
    top += LINE if limit else 0
    room = WIDTH - max(map(width_of, names)) - _VALUE if has_labels else WIDTH
    style = _BarStyle(unit, tones, room / most, stacked, has_labels)
    for row, size in zip(rows, sizes, strict=True):
        top = _bar_row(chart, row, top, style, unit.text(size))
    bottom = top - _ROW_GAP + 4
    _upright_limits(chart, [limit] if limit else [], lambda value: value * style.per_unit, begin, bottom)
    chart.height = bottom
    return chart


def ranges(title: str, axis: Axis, rows: Sequence[Range], limits: Sequence[Limit] = ()) -> Drawing | None:
    """Draw values with their intervals on one axis; None when there is none that the axis can show."""
    drawn = [row for row in rows if not axis.is_log or row.low > 0]
    if not drawn:
        return None
    ends = [end for row in drawn for end in (row.low, row.value, row.high)]
    scale = axis.scale([*ends, *(limit.value for limit in limits)])
    chart = Drawing(title, description=_described((row.name, row.label) for row in drawn))
    top = begin = LINE * len(limits) + 4.0
    bottom = begin + len(drawn) * _RANGE_HEIGHT

    def place(value: float) -> float:
        return _MARGIN + scale.at(value) * (WIDTH - 2 * _MARGIN)

    for tick in scale.ticks:
        chart.line(place(tick), begin, place(tick), bottom, "base" if tick == 0 and scale.low < 0 else "grid")
    _upright_limits(chart, limits, place, 0, bottom)
    for row in drawn:
        _range_row(chart, row, top, [place(end) for end in (row.low, row.value, row.high)])
        top += _RANGE_HEIGHT
    chart.line(_MARGIN, bottom, WIDTH - _MARGIN, bottom, "base")
    _ticks_below(chart, scale, axis, place, bottom)
    chart.height = bottom + _BELOW_TICKS
    if axis.label:
        chart.text(WIDTH / 2, bottom + _BELOW_AXIS - 6, axis.unit.in_title(axis.label), "middle", "axis")
        chart.height = bottom + _BELOW_AXIS
    return chart


class _Plot:
    """The area of a line chart between its two axes."""

    def __init__(self, chart: Drawing, across: Scale, up: Scale, left: float, top: float, right: float) -> None:
        self.chart, self.across, self.up = chart, across, up
        self.left, self.right, self.top, self.bottom = left, right, top, top + _PLOT_HEIGHT

    def x(self, value: float) -> float:
        return self.left + self.across.at(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - self.up.at(value) * (self.bottom - self.top)

    def axes(self, x: Axis, y: Axis) -> None:
        for tick in self.up.ticks:
            self.chart.line(self.left, self.y(tick), self.right, self.y(tick), "grid")
            self.chart.text(self.left - _TICK_GAP, self.y(tick) + 4, y.unit.tick(tick), "end")
        self.chart.line(self.left, self.bottom, self.right, self.bottom, "base")
        _ticks_below(self.chart, self.across, x, self.x, self.bottom)
        middle = (self.left + self.right) / 2
        self.chart.text(middle, self.bottom + _BELOW_AXIS - 6, x.unit.in_title(x.label), "middle", "axis")

    def series(self, one: Series, points: Sequence[tuple[float, float]], tone: int, x: Axis, y: Axis) -> None:
        places = [(self.x(across), self.y(up)) for across, up in points]
        self.chart.path(places, tone)
        (x0, first), (x1, last) = points[0], points[-1]
        self.chart.description += (
            f" {one.name}: {y.unit.text(first)} at {x.unit.text(x0)}, {y.unit.text(last)} at {x.unit.text(x1)}."
        )
        if not one.has_markers or len(points) > _MOST_MARKERS:
            return
        labels = [f"{label}: " for label in one.labels] or [""] * len(points)
        for (left, top), (across, up), label in zip(places, points, labels, strict=True):
            self.chart.marker(left, top, tone, f"{label}{one.name}, {x.unit.text(across)}: {y.unit.text(up)}")

    def limit_names(self, limits: Sequence[Limit]) -> None:
        """Write the names over their lines, one below the other where limits lie close together."""
        lowest = self.top - LINE
        for limit in sorted(limits, key=lambda one: -one.value):
            at = self.y(limit.value)
            lowest = max(at - 5 if at - LINE > self.top else at + LINE - 4, lowest + LINE)
            self.chart.text(self.left + _TICK_GAP, lowest, limit.name, kind="limit")


def _visible(one: Series, x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [(left, up) for left, up in one.points if not (x.is_log and left <= 0) and not (y.is_log and up <= 0)]


def _upright_limits(
    chart: Drawing, limits: Sequence[Limit], place: Callable[[float], float], top: float, bottom: float
) -> None:
    """Draw upright limits, each with its name on a line of its own above the plot; no line runs through a name."""
    ordered = sorted(limits, key=lambda one: one.value)
    fits = [place(one.value) + 5 + width_of(one.name) * _BOLD <= WIDTH for one in ordered]
    if not all(fits):
        ordered.reverse()
    for number, limit in enumerate(ordered):
        at, y = place(limit.value), top + LINE * (number + 1) - 4
        chart.limit(limit.name, (at, y - 10), (at, bottom))
        if all(fits):
            chart.text(at + 5, y, limit.name, "start", "limit")
        elif at - 5 >= width_of(limit.name) * _BOLD:
            chart.text(at - 5, y, limit.name, "end", "limit")
        else:
            chart.text(at + 5, y, shortened(limit.name, WIDTH - at - 5), "start", "limit", full=limit.name)


def _ticks_below(chart: Drawing, scale: Scale, axis: Axis, place: Callable[[float], float], bottom: float) -> None:
    """Write the ticks of a horizontal axis, leaving out those that would touch the one before."""
    free = -CHARACTER
    for tick in scale.ticks:
        text = axis.unit.tick(tick)
        half, at = width_of(text) / 2, place(tick)
        anchor = "end" if at + half > WIDTH else "start" if at - half < 0 else "middle"
        begin = at - {"start": 0, "middle": half, "end": 2 * half}[anchor]
        if begin >= free + CHARACTER:
            chart.text(at, bottom + LINE + 3, text, anchor)
            free = begin + 2 * half


@dataclass(frozen=True, slots=True)
class _BarStyle:
    unit: Unit
    tones: dict[str, int]
    per_unit: float
    is_stacked: bool
    has_labels: bool


def _bar_row(chart: Drawing, row: Bar, top: float, style: _BarStyle, total: str) -> float:
    """Draw one row and return where the next one begins."""
    value = "" if style.has_labels else row.label or total
    chart.name(top + 12, row.name, WIDTH - width_of(value) * _BOLD - 2 * CHARACTER)
    if value:
        chart.text(WIDTH, top + 12, value, "end", "value")
    top, left = top + _ROW, 0.0
    for name, amount in row.parts:
        width, tone = amount * style.per_unit, style.tones[name] if row.tone is None else row.tone
        tip = f"{row.name}{', ' if name else ''}{name}: {style.unit.text(amount)}"
        if amount > 0 or not style.is_stacked:
            chart.bar(left, top, width - style.is_stacked, _BAR, tone, tip)
        if style.is_stacked:
            left += width
        elif style.has_labels:
            chart.text(max(width, 1) + 6, top + 11, f"{name} {style.unit.text(amount)}")
            top += _BAR + 3
    return top + _ROW_GAP + (0 if style.has_labels else _BAR)


def _range_row(chart: Drawing, row: Range, top: float, places: Sequence[float]) -> None:
    low, value, high = places
    chart.name(top + 12, row.name, WIDTH - width_of(row.label) * _BOLD - 2 * CHARACTER)
    chart.text(WIDTH, top + 12, row.label, "end", "value")
    y = top + _ROW + 5
    if high > low:
        chart.line(low, y, high, y, f"whisker t{row.tone}")
        for end in (low, high):
            chart.line(end, y - 4, end, y + 4, f"cap t{row.tone}")
    chart.marker(value, y, row.tone, f"{row.name}: {row.label}", size=4.5)


def _described(rows: Iterable[tuple[str, str]]) -> str:
    """Say the first figures in a sentence."""
    described = [f"{name} {value}" for name, value in rows]
    more = f" and {len(described) - _MOST_DESCRIBED} more" if len(described) > _MOST_DESCRIBED else ""
    return f"{'; '.join(described[:_MOST_DESCRIBED])}{more}."
