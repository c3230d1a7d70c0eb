"""A chart as SVG: a figure inside a page, or a file of its own; colours come from chart.css, light and dark."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from math import ceil

from markupsafe import Markup

WIDTH = 480
CHARACTER = 8.6
"""Room for a digit: that of a narrow screen, where text is larger in relation to the drawing."""
_WIDTHS = {**dict.fromkeys("mMwW@…%", 13.8), **dict.fromkeys(" .,:;'|ijlft()[]-", 5.2)}
LINE = 18
TONES = 8
_DASHES = ("", "7 4", "2 4", "10 3 2 3", "12 5", "5 2", "1 3", "8 3 2 3 2 3")
_WIDE_SCREEN = 0.8
"""Size of text on a wide screen over that on a narrow one."""
_SHAPES = 4
_TITLE_HEIGHT = 30


@dataclass(slots=True)
class Drawing:
    """A chart: its title, its description for those who cannot see it, and its marks from the top left corner."""

    title: str
    height: float = 0
    description: str = ""
    marks: list[Markup] = field(default_factory=list)
    texts: list[Markup] = field(default_factory=list)
    """Drawn over all marks."""

    def __html__(self) -> str:
        """Render the chart as a figure with a caption."""
        return Markup('<figure class="chart"><figcaption>{}</figcaption>{}</figure>').format(
            self.title, self._svg(Markup(""), Markup(""), 0)
        )

    def file(self) -> str:
        """Render the chart as the text of an SVG file, which brings its own style."""
        style = Markup("<style>{}</style>").format(Markup(chart_style()))  # noqa: S704 - a file of ours
        title = Markup('<text x="0" y="16" class="title">{}</text>').format(shortened(self.title, WIDTH))
        body = self._svg(Markup(' xmlns="http://www.w3.org/2000/svg"'), style + title, _TITLE_HEIGHT)
        return f"{body}\n"

    def _svg(self, attributes: Markup, before: Markup, down: float) -> Markup:
        margin = 12 if attributes else 0
        shifted = Markup('<g transform="translate(0 {:g})">{}</g>') if down else Markup("{1}")
        return Markup(
            '<svg{} viewBox="{:g} {:g} {:g} {:g}" class="chart" role="img"><title>{}</title><desc>{}</desc>{}{}</svg>'
        ).format(
            attributes,
            -margin,
            -margin,
            WIDTH + 2 * margin,
            ceil(self.height + down) + 2 * margin,
            self.title,
            self.description,
            before,
            shifted.format(down, Markup("").join([*self.marks, *self.texts])),
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a straight line of a class in chart.css."""
        line = Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>')
        self.marks.append(line.format(x1, y1, x2, y2, kind))

    def text(self, x: float, y: float, text: str, anchor: str = "start", kind: str = "", full: str = "") -> None:
        """Write text; `full` is what a shortened text stands for, shown when pointed at."""
        tip = Markup("<title>{}</title>").format(full) if full and full != text else ""
        style = Markup(' class="{}"').format(kind) if kind else ""
        mark = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}{}</text>')
        self.texts.append(mark.format(x, y, anchor, style, tip, text))

    def name(self, y: float, text: str, room: float) -> None:
        """Write the name of a row on a ground of its own, so that no line runs through it."""
        name = shortened(text, room)
        ground = Markup('<rect x="0" y="{:.1f}" width="{:.1f}" height="16" class="ground"/>')
        self.texts.append(ground.format(y - 12, width_of(name) * _WIDE_SCREEN))
        self.text(0, y, name, kind="name", full=text)

    def bar(self, x: float, y: float, width: float, height: float, tone: int, tip: str) -> None:
        """Draw a horizontal bar."""
        place = Markup('x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"').format(x, y, max(width, 1), height)
        mark = Markup('<rect {} rx="2" class="fill t{}"><title>{}</title></rect>')
        self.marks.append(mark.format(place, tone % TONES, tip))

    def path(self, places: Sequence[tuple[float, float]], tone: int) -> None:
        """Draw a line through places, dashed by its tone."""
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dashes = _DASHES[tone % len(_DASHES)]
        dashed = Markup(' stroke-dasharray="{}"').format(dashes) if dashes else ""
        mark = Markup('<polyline points="{}" class="line t{}"{}/>')
        self.marks.append(mark.format(points, tone % TONES, dashed))

    def marker(self, x: float, y: float, tone: int, tip: str = "", size: float = 4) -> None:
        """Mark a point with the shape of its tone: circle, square, triangle, diamond."""
        more = size + 1
        shape = (
            f"M{x - size:.1f} {y:.1f}a{size:g} {size:g} 0 1 0 {2 * size:g} 0a{size:g} {size:g} 0 1 0 {-2 * size:g} 0z",
            f"M{x - size:.1f} {y - size:.1f}h{2 * size:g}v{2 * size:g}h{-2 * size:g}z",
            f"M{x:.1f} {y - more:.1f}l{more:g} {2 * size:g}h{-2 * more:g}z",
            f"M{x:.1f} {y - more:.1f}l{more:g} {more:g}l{-more:g} {more:g}l{-more:g} {-more:g}z",
        )[tone % _SHAPES]
        title = Markup("<title>{}</title>").format(tip) if tip else ""
        self.marks.append(Markup('<path d="{}" class="fill t{}">{}</path>').format(shape, tone % TONES, title))

    def legend(self, names: Sequence[tuple[str, int]], y: float, *, lines: bool) -> float:
        """Draw a legend from the line at `y`, wrapped to the width; returns the height it takes."""
        x, top = 0.0, y
        for full, tone in names:
            name = shortened(full, WIDTH - 40)
            width = 36 + width_of(name)
            if x and x + width > WIDTH:
                x, y = 0.0, y + LINE
            if lines:
                self.path([(x, y - 4), (x + 22, y - 4)], tone)
                self.marker(x + 11, y - 4, tone, size=3)
            else:
                self.bar(x + 6, y - 10, 12, 12, tone, full)
            self.text(x + 28, y, name, full=full)
            x += width
        return y - top + LINE

    def limit(self, name: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw the line of a limit; its name is written by the caller, where there is room."""
        self.line(*start, *end, "limit")
        self.description += f" {name}."


def width_of(text: str) -> float:
    """Estimate the width of text, rather too wide than too narrow."""
    return sum(_WIDTHS.get(character, 10.4 if character.isupper() else CHARACTER) for character in text)


def shortened(text: str, room: float) -> str:
    """Shorten text to a width; what is cut shows as an ellipsis."""
    if width_of(text) <= room:
        return text
    kept = text
    while kept and width_of(kept) > room - width_of("…"):
        kept = kept[:-1]
    return f"{kept}…"


def chart_style() -> str:
    """Return the part of the stylesheet that charts need."""
    return files(__package__).joinpath("chart.css").read_text(encoding="utf-8")
