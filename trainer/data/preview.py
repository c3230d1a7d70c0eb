"""The first rows of a file, rendered as the model will see them, with what is wrong with their masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.mask_check import check_mask, control_ids
from trainer.data.reading import Reader
from trainer.data.rows import Example, Pair, parse_row
from trainer.errors import DataError, Problem

if TYPE_CHECKING:
    from trainer.rendering import Rendered, Renderer


@dataclass(frozen=True)
class Shown:
    """One rendered row; a pair has two sides, the preferred one first, a conversation one."""

    line: int
    row_id: str
    sides: "tuple[Rendered, ...]"


def first_rows(path: Path, most: int) -> list[Example | Pair]:
    """The first good rows of a file; raises `DataError` with the problems that stand before them."""
    rows, problems = list[Example | Pair](), list[Problem]()
    for found in Reader(path).read():
        if isinstance(found, Problem):
            problems.append(found)
        else:
            rows.append(parse_row(found.line, found.fields))
            if len(rows) == most:
                break
    if problems:
        raise DataError(problems)
    return rows


def render_rows(renderer: "Renderer", path: Path, rows: Sequence[Example | Pair]) -> tuple[list[Shown], list[Problem]]:
    """Render rows, and say what is wrong with each that cannot be rendered or is not masked as it has to be."""
    shown, problems, controls = list[Shown](), list[Problem](), control_ids(renderer.tokenizer)
    for row in rows:
        try:
            sides = tuple(_rendered(renderer, row))
        except ValueError as error:
            problems.append(Problem(str(path), row.line, str(error)))
            continue
        for example, rendered in sides:
            problems += (Problem(str(path), row.line, text) for text in check_mask(example, rendered, controls))
        shown.append(Shown(row.line, row.row_id, tuple(rendered for _, rendered in sides)))
    return shown, problems


def _rendered(renderer: "Renderer", row: Example | Pair) -> "list[tuple[Example, Rendered]]":
    examples = (row.preferred, row.rejected) if isinstance(row, Pair) else (row,)
    return [(example, renderer.render(example)) for example in examples]
