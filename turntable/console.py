"""Tables for terminals and pipes that lose no figure: narrower columns where there is little room, then one record
below the other; in a pipe, lines are as long as they need to be.
"""

import shutil
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Column, Table

_PIPE = (100_000, 25)
_NAME = 28
"""Text in words longer than this is folded rather than given all the room; figures never are."""


def console() -> Console:
    """Standard output at its width; a pipe has none, unless COLUMNS says so."""
    return Console(width=shutil.get_terminal_size(_PIPE).columns)


def show(table: Table, out: Console | None = None) -> None:
    """Print a table with every cell whole."""
    out = out or console()
    out.print(fitted(table, out))


def fitted(table: Table, out: Console) -> RenderableType:
    """The table with widths that fit, or its rows as records when no widths do."""
    ranges = [_range(column, out) for column in table.columns]
    spare = _spare(table, ranges, out)
    if spare < 0:
        table.padding = (0, 1, 0, 0)
        spare = _spare(table, ranges, out)
    if spare < 0:
        return _records(table)
    widths = {place: one.minimum for place, one in enumerate(ranges)}
    by_need = sorted(widths, key=lambda place: ranges[place].maximum - ranges[place].minimum)
    for number, place in enumerate(by_need):
        more = min(ranges[place].maximum - ranges[place].minimum, spare // (len(by_need) - number))
        widths[place] += more
        spare -= more
    for place, column in enumerate(table.columns):
        column.width, column.no_wrap, column.overflow = widths[place], False, "fold"
    return table


def _spare(table: Table, ranges: Sequence[Measurement], out: Console) -> int:
    """How much room is left when every column is as narrow as it can be."""
    natural = Measurement.get(out, out.options.update(width=_PIPE[0]), table).maximum
    return out.width - natural + sum(one.maximum - one.minimum for one in ranges)


def _range(column: Column, out: Console) -> Measurement:
    """How narrow and how wide a column can be."""
    cells = [Measurement.get(out, out.options.update(width=_PIPE[0]), cell) for cell in (column.header, *column.cells)]
    least = max(cell.minimum for cell in cells)
    return Measurement(least if column.justify == "right" else min(least, _NAME), max(cell.maximum for cell in cells))


def _records(table: Table) -> RenderableType:
    """One row below the other: a heading and its cell on each line, empty cells left out."""
    grid = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2, 0, 0))
    rows = zip(*(list(column.cells) for column in table.columns), strict=True)
    for number, row in enumerate(rows):
        if number:
            grid.add_row("", "")
        for column, cell in zip(table.columns, row, strict=True):
            if cell != "":
                grid.add_row(column.header, cell)
    return Group(*([table.title] if table.title else []), grid)
