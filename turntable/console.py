"""Command-line output for all commands: tables, figures, JSON, CSV, progress, errors and exit codes.

A command raises an error with one sentence that names the fix. `App` prints it as `error: ...` on standard error and
ends with an exit code: 0 success, 1 failed verdict, 2 wrong usage or could not run, 130 interrupted, 141 output closed.
"""

import csv
import io
import json
import os
import select
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from typing import TYPE_CHECKING, Any, BinaryIO, ParamSpec, TextIO, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

FAILED, COULD_NOT_RUN, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141
_PIPE_WIDTH = 100_000
_LONGEST_WORD = 28
_GAP = "  "
_OUR_PACKAGES = ("adapters", "examples", "gateway", "loadtest", "trainer", "turntable")

Parameters = ParamSpec("Parameters")
Function = TypeVar("Function", bound=Callable[..., Any])


class CommandError(Exception):
    """Why a command cannot go on: one sentence that names the fix, and lines to print before it."""

    def __init__(self, sentence: str, *, exit_code: int = COULD_NOT_RUN, details: Sequence[str] = ()) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
        self.details = tuple(details)


def _same_sentence(error: Exception) -> CommandError:
    return CommandError(str(error))


class App(typer.Typer):
    """A Typer app whose commands print `errors` as one sentence and end with an exit code, never with a traceback.

    `explain` turns one of `errors` into a `CommandError`; by default its own text is the sentence.
    """

    def __init__(
        self,
        *,
        errors: tuple[type[Exception], ...] = (),
        explain: Callable[[Exception], CommandError] = _same_sentence,
        cls: type[TyperGroup] | None = None,
        add_completion: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(
            cls=cls or Group,
            add_completion=add_completion,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            **settings,
        )
        self._errors, self._explain = errors, explain

    def command(
        self, name: str | None = None, *, interrupted: str = "interrupted", **settings: Any
    ) -> Callable[[Function], Function]:
        """Register a command; Ctrl-C prints the line `interrupted` and ends with 130."""
        register = super().command(name, **{"cls": Command, **settings})

        def decorate(function: Function) -> Function:
            register(self._ending(function, interrupted))
            return function

        return decorate

    def callback(self, **settings: Any) -> Callable[[Function], Function]:
        """Register the function that runs for the group itself."""
        register = super().callback(**settings)

        def decorate(function: Function) -> Function:
            register(self._ending(function, "interrupted"))
            return function

        return decorate

    def _ending(self, function: Callable[Parameters, Any], interrupted: str) -> Callable[Parameters, None]:
        @wraps(function)
        def command(*arguments: Parameters.args, **options: Parameters.kwargs) -> None:
            try:
                function(*arguments, **options)
            except KeyboardInterrupt:
                raise CommandError(interrupted, exit_code=INTERRUPTED) from None
            except BrokenPipeError:
                if _discard_closed_outputs():
                    raise typer.Exit(CLOSED_PIPE) from None
                raise _closed_connection() from None
            except self._errors as error:
                raise self._explain(error) from error

        return command


class Command(TyperCommand):
    """A command that ends as `App` says."""

    def main(self, *arguments: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Run the command and leave the process, or return its result when not `standalone_mode`."""
        return _run(super().main, arguments, options, standalone_mode=standalone_mode)


class Group(TyperGroup):
    """A group that ends as `App` says, and lists its commands under the headings of their `rich_help_panel`."""

    def main(self, *arguments: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Run the group and leave the process, or return its result when not `standalone_mode`."""
        return _run(super().main, arguments, options, standalone_mode=standalone_mode)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help on standard error, with exit code 2, when a sub-command is missing."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(COULD_NOT_RUN)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands in their order, under one heading per panel."""
        panels: dict[str, list[tuple[str, str]]] = {}
        shown = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        limit = formatter.width - 6 - max(map(len, shown), default=0)
        for name, command in shown.items():
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None) or "Commands"
                panels.setdefault(panel, []).append((name, command.get_short_help_str(limit)))
        widest = max((len(name) for rows in panels.values() for name, _ in rows), default=0)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(widest), text) for name, text in rows])


def _run(
    main: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any], *, standalone_mode: bool
) -> Any:
    if not standalone_mode:
        return main(*arguments, standalone_mode=False, **options)
    try:
        try:
            result = main(*arguments, standalone_mode=False, **options)
        finally:
            sys.stdout.flush()
        code = result if isinstance(result, int) else 0
    except BrokenPipeError:
        code = CLOSED_PIPE if _discard_closed_outputs() else _report(_closed_connection())
    except (CommandError, typer.TyperException) as error:
        code = _report(error)
    except typer.Abort:
        code = _report(CommandError("interrupted", exit_code=INTERRUPTED))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in _OUR_PACKAGES:
            raise
        code = _report(
            CommandError(
                f"The Python package '{error.name}' is not installed; install the extra that brings it, "
                "for training: pip install 'turntable-gateway[trainer]'."
            )
        )
    sys.exit(code)


def _report(error: CommandError | typer.TyperException) -> int:
    """Print an error on standard error and return its exit code."""
    if isinstance(error, CommandError):
        for line in error.details:
            typer.echo(line, err=True)
        begin = "error: " if error.exit_code != INTERRUPTED else "\n" if sys.stderr.isatty() else ""
        typer.echo(f"{begin}{error}", err=True)
        return error.exit_code
    context = getattr(error, "ctx", None)
    sentence = error.format_message().rstrip()
    sentence += "" if sentence.endswith((".", "?")) else "."
    see = f" See `{context.command_path} --help`." if context is not None else ""
    typer.echo(f"error: {sentence}{see}", err=True)
    return error.exit_code


def _closed_connection() -> CommandError:
    return CommandError("a connection was closed by the other side; run the command again.")


def _discard_closed_outputs() -> bool:
    """Whether the reader of standard output or standard error has gone; the rest of that output is then dropped."""
    closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
    for stream in closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(closed)


def _is_closed(stream: TextIO) -> bool:
    """Whether a stream is a pipe, socket or terminal without a reader."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return False
    poller = select.poll()
    poller.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poller.poll(0))


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; a `figure` is aligned to the right, and its words are never broken."""

    heading: str
    figure: bool = False


def figures(*headings: str) -> list[Column]:
    """Columns of numbers."""
    return [Column(heading, figure=True) for heading in headings]


class Table:
    """Rows of text cells. Every figure and column is shown at any width: columns become narrower, and where even that
    does not fit, each row becomes a record with one heading and its cell per line.
    """

    def __init__(self, *columns: Column | str, title: str = "") -> None:
        self.columns = [Column(column) if isinstance(column, str) else column for column in columns]
        self.title = title
        self.rows: list[tuple[str, ...] | None] = []

    def add(self, *cells: str) -> None:
        """Add a row with a cell for each column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells for {len(self.columns)} columns")
        self.rows.append(cells)

    def rule(self) -> None:
        """Add a line between two groups of rows."""
        self.rows.append(None)

    def render(self, width: int | None = None) -> str:
        """The table as text for so many characters a line; by default those of standard output."""
        available = width or output_width()
        natural = [max(map(_width, self._cells(place))) for place in range(len(self.columns))]
        least = [self._least(place) for place in range(len(self.columns))]
        spare = available - sum(least) - len(_GAP) * (len(self.columns) - 1)
        title = [self.title] if self.title else []
        if spare < 0:
            return "\n".join([*title, *self._records(available)])
        return "\n".join([*title, *self._lines(_widths(least, natural, spare))])

    def _cells(self, place: int) -> list[str]:
        return [self.columns[place].heading, *(row[place] for row in self.rows if row is not None)]

    def _least(self, place: int) -> int:
        longest = max((_width(word) for cell in self._cells(place) for word in cell.split()), default=0)
        return longest if self.columns[place].figure else min(longest, _LONGEST_WORD)

    def _lines(self, widths: Sequence[int]) -> Iterator[str]:
        rule = _GAP.join("─" * width for width in widths)
        yield from self._row([column.heading for column in self.columns], widths)
        yield rule
        for row in self.rows:
            yield from [rule] if row is None else self._row(row, widths)

    def _row(self, cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
        wrapped = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
        for number in range(max(map(len, wrapped))):
            parts = []
            for column, lines, width in zip(self.columns, wrapped, widths, strict=True):
                text = lines[number] if number < len(lines) else ""
                blank = " " * (width - _width(text))
                parts.append(blank + text if column.figure else text + blank)
            yield _GAP.join(parts).rstrip()

    def _records(self, available: int) -> Iterator[str]:
        named = max((_width(column.heading) for column in self.columns), default=0)
        for number, row in enumerate(row for row in self.rows if row is not None):
            if number:
                yield ""
            for column, cell in zip(self.columns, row, strict=True):
                if cell:
                    first, *more = _wrap(cell, max(available - named - len(_GAP), 1))
                    yield f"{column.heading}{' ' * (named - _width(column.heading))}{_GAP}{first}"
                    yield from (f"{' ' * named}{_GAP}{line}" for line in more)


def _widths(least: Sequence[int], natural: Sequence[int], spare: int) -> list[int]:
    """Widths of columns: the spare room is shared out, first to those that need the least more."""
    widths = list(least)
    by_need = sorted(range(len(least)), key=lambda place: natural[place] - least[place])
    for number, place in enumerate(by_need):
        more = min(natural[place] - least[place], spare // (len(by_need) - number))
        widths[place] += more
        spare -= more
    return widths


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken between words, and within words that are longer."""
    return [line for paragraph in text.split("\n") for line in _wrap_paragraph(paragraph, width)]


def _wrap_paragraph(paragraph: str, width: int) -> list[str]:
    if _width(paragraph) <= width:
        return [paragraph]
    lines = [""]
    for word in paragraph.split():
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if _width(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and _width(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def table_of(
    columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], *, title: str = "", keep_empty: bool = False
) -> Table:
    """Rows as a table; `columns` maps headings to keys. Columns that are empty throughout are left out by default."""
    texts = {heading: [cell_text(row.get(key)) for row in rows] for heading, key in columns.items()}
    kept = {heading: cells for heading, cells in texts.items() if any(cells) or keep_empty} if rows else texts
    is_number = {
        heading: all(isinstance(row.get(columns[heading]), int | float | None) for row in rows)
        and not any(row.get(columns[heading]) is True for row in rows)
        for heading in kept
    }
    table = Table(*(Column(heading, figure=bool(rows) and is_number[heading]) for heading in kept), title=title)
    for cells in zip(*kept.values(), strict=True):
        table.add(*cells)
    return table


def cell_text(value: Any) -> str:
    """A value as a cell: nothing for what is missing or false, `yes` for true, a list with commas."""
    if value is None or value is False or value == []:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, int | float):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def output_width(stream: TextIO | None = None) -> int:
    """Characters in a line of a stream, by default standard output; a pipe has no limit, unless COLUMNS is set."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size((stream or sys.stdout).fileno()).columns or _PIPE_WIDTH
    except (OSError, ValueError):
        return _PIPE_WIDTH


def show(table: Table) -> None:
    """Print a table to standard output."""
    text = table.render()
    typer.echo(text if table.rows else f"{text}\n(none)")


def say(text: str = "", *, err: bool = False) -> None:
    """Print a sentence; on a terminal its lines are broken between words, in a pipe it stays one line."""
    stream = sys.stderr if err else sys.stdout
    width = output_width(stream) if stream.isatty() else _PIPE_WIDTH
    typer.echo("\n".join(_wrap(text, width)), err=err)


def print_json(document: Any) -> None:
    """Print a document as JSON to standard output."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def csv_text(headings: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header line; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, headings, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def usd(amount: Decimal | float, digits: int | None = None) -> str:
    """Dollars: two decimals from one dollar on and for nothing, six in between."""
    digits = (6 if amount and -1 < amount < 1 else 2) if digits is None else digits
    return f"{'-' if amount < 0 else ''}${abs(amount):,.{digits}f}"


def duration(seconds: float) -> str:
    """Seconds up to two minutes, then minutes, and hours from two hours on."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def size(byte_count: int) -> str:
    """Bytes in the largest binary unit that gives at least one: `512 B`, `12.3 MiB`."""
    value, unit = float(byte_count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.0f} B" if unit == "B" else f"{value:,.1f} {unit}"


class Progress:
    """The progress of one piece of work: a bar on a terminal, a line per step elsewhere."""

    def __init__(self, what: str, bar: "ProgressBar | None") -> None:
        self._what, self._bar = what, bar
        self._task = None if bar is None else bar.add_task(what, total=None)

    @property
    def is_live(self) -> bool:
        """Whether a terminal shows every update."""
        return self._bar is not None

    def step(self, text: str) -> None:
        """Say which step the work has reached."""
        if self._bar is None or self._task is None:
            typer.echo(f"{self._what}: {text}", err=True)
        else:
            self._bar.update(self._task, description=f"{self._what}: {text}")

    def update(self, done: int, total: int) -> None:
        """Say how much is done; shown on a terminal only."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    @contextmanager
    def reading(self, file: BinaryIO) -> Iterator[BinaryIO]:
        """Follow how much of a file has been read, as an upload does."""
        length = os.fstat(file.fileno()).st_size
        self.step(f"uploading {size(length)}")
        if self._bar is None or self._task is None:
            yield file
            return
        with self._bar.wrap_file(file, length, task_id=self._task) as wrapped:
            yield wrapped


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Show the progress of the block on standard error."""
    if not sys.stderr.isatty():
        yield Progress(what, None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as ProgressBar

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Progress(what, bar)
