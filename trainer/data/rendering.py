"""Token lengths as the base model's own chat template makes them, and the rows that it cannot render or hold.

Of very many rows a random sample is rendered, and the report says so.

Whether the mask of a rendered row is what it has to be, judged from the row and not from how it was rendered.

The three classic faults of fine-tuning show here: nothing is learnt, the prompt is learnt, or the stop token is not.

The first rows of a file, rendered as the model will see them, with what is wrong with their masks.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.loaders import Reader
from trainer.data.scan import MAX_PROBLEMS, Columns, FileScan, read_rows
from trainer.data.schema import Example, Pair, parse_row
from trainer.errors import DataError, Problem

if TYPE_CHECKING:
    from trainer.training.loss_mask import Renderer
if TYPE_CHECKING:
    from trainer.training.loss_mask import RenderedExample
if TYPE_CHECKING:
    from trainer.training.loss_mask import RenderedExample, Renderer


MOST_RENDERED = 20_000
_PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True)
class TokenLengths:
    """Of `rendered` rows among `rows`: percentiles of their tokens, totals of all and of learnt tokens, what is wrong.

    `too_long` are the rows over `max_length` with the longest first in the sentence of the finding.
    """

    rows: int
    rendered: int
    max_length: int
    percentiles: dict[str, int]
    tokens: int
    loss_tokens: int
    too_long: tuple[Problem, ...]
    unrendered: tuple[Problem, ...]

    @property
    def tokens_of_all(self) -> int:
        """Tokens of all rows, extrapolated from those rendered."""
        return round(self.tokens * self.rows / self.rendered) if self.rendered else 0


def measure_lengths(
    files: Sequence[FileScan], columns: Columns, renderer: "Renderer", max_length: int, *, most: int = MOST_RENDERED
) -> TokenLengths:
    """Render all rows, or `most` random ones; the same file always gives the same sample."""
    chosen = list(range(len(columns)))
    if len(columns) > most:
        chosen = sorted(random.Random(0).sample(chosen, most))  # noqa: S311 - a sample, not a secret
    limit = min(max_length, renderer.longest_context)
    lengths, tokens, trained = list[int](), 0, 0
    too_long, unrendered = list[Problem](), list[Problem]()
    for index, row in zip(chosen, read_rows(files, columns, np.array(chosen, np.int64)), strict=True):
        path = str(files[int(columns.file[index])].path)
        try:
            sides = [renderer.render(side) for side in _sides(row)]
        except ValueError as error:
            if len(unrendered) < MAX_PROBLEMS:
                unrendered.append(Problem(path, row.line, str(error)))
            continue
        lengths.append(max(len(side.input_ids) for side in sides))
        tokens += sum(len(side.input_ids) for side in sides)
        trained += sum(side.loss_tokens for side in sides)
        if lengths[-1] > limit:
            too_long.append(Problem(path, row.line, f"has {lengths[-1]:,} tokens, more than {limit:,}"))
    return TokenLengths(
        len(columns),
        len(chosen),
        limit,
        {f"p{share}": int(np.percentile(lengths, share, method="higher")) for share in _PERCENTILES if lengths},
        tokens,
        trained,
        tuple(too_long),
        tuple(unrendered),
    )


def _sides(row: Example | Pair) -> tuple[Example, ...]:
    return (row.preferred, row.rejected) if isinstance(row, Pair) else (row,)


_IGNORED = -100
_TELLING_CHARACTERS = 8


def check_mask(example: Example, rendered: "RenderedExample", control_ids: frozenset[int]) -> Iterator[str]:
    """What is wrong with a mask, as sentences; `control_ids` are the tokenizer's special tokens."""
    runs = list(_runs(rendered))
    learnt = [message for message in example.messages if message.in_loss]
    if not runs:
        yield "has no trained tokens: the loss would be taken over nothing"
        return
    if len(runs) != len(learnt) or len(rendered.loss_spans) != len(learnt):
        yield f"has {len(runs)} trained stretches for {len(learnt)} messages to learn: the mask is shifted"
        return
    for (_, end), message, (begin_at, end_at) in zip(runs, learnt, rendered.loss_spans, strict=True):
        text = rendered.text[begin_at:end_at]
        if rendered.labels[end - 1] not in control_ids:
            yield f"trains {_short(text)} without its stop token: the model would never learn to stop"
        if message.content.strip() not in text:
            yield f"trains {_short(text)}, which is not the whole answer {_short(message.content)}"
        for other in example.messages:
            prompt = other.content.strip()
            if not other.in_loss and len(prompt) >= _TELLING_CHARACTERS and prompt in text.replace(message.content, ""):
                yield f"trains the {other.role} message {_short(prompt)}: the prompt is not masked"


def control_ids(tokenizer: object) -> frozenset[int]:
    """The ids of all special tokens of a tokenizer, those of its chat template included."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = (number for number, token in added.items() if token.special)
    return frozenset([*getattr(tokenizer, "all_special_ids", ()), *special])


def _runs(rendered: "RenderedExample") -> Iterator[tuple[int, int]]:
    """Begin and end of each stretch of trained tokens."""
    begin = None
    for index, label in enumerate([*rendered.labels, _IGNORED]):
        if label != _IGNORED and begin is None:
            begin = index
        elif label == _IGNORED and begin is not None:
            yield begin, index
            begin = None


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return f'"{flat}"' if len(flat) <= 40 else f'"{flat[:37]}..."'


@dataclass(frozen=True)
class PreviewRow:
    """One rendered row; a pair has two sides, the preferred one first, a conversation one."""

    line: int
    row_id: str
    sides: "tuple[RenderedExample, ...]"


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


def render_rows(
    renderer: "Renderer", path: Path, rows: Sequence[Example | Pair]
) -> tuple[list[PreviewRow], list[Problem]]:
    """Render rows, and say what is wrong with each that cannot be rendered or is not masked as it has to be."""
    shown, problems, controls = list[PreviewRow](), list[Problem](), control_ids(renderer.tokenizer)
    for row in rows:
        try:
            sides = tuple(_rendered(renderer, row))
        except ValueError as error:
            problems.append(Problem(str(path), row.line, str(error)))
            continue
        for example, rendered in sides:
            problems += (Problem(str(path), row.line, text) for text in check_mask(example, rendered, controls))
        shown.append(PreviewRow(row.line, row.row_id, tuple(rendered for _, rendered in sides)))
    return shown, problems


def _rendered(renderer: "Renderer", row: Example | Pair) -> "list[tuple[Example, RenderedExample]]":
    examples = (row.preferred, row.rejected) if isinstance(row, Pair) else (row,)
    return [(example, renderer.render(example)) for example in examples]
