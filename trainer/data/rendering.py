"""Render rows for `turntable data check` and `data preview`: token lengths, failures, and defects of the loss mask.

Of very many rows a random sample is rendered, and the report says so. The mask of a row is judged from the row, not
from how it was rendered: an empty loss, a prompt in the loss, or a stop token outside it are the usual defects.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.loaders import Reader
from trainer.data.scan import MAX_PROBLEMS, Columns, FileScan, read_rows
from trainer.data.schema import Example, Pair, parse_row
from trainer.errors import ControlTextError, DataError, Problem

if TYPE_CHECKING:
    from trainer.training.loss_mask import RenderedExample, Renderer


MOST_RENDERED = 20_000
_PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True)
class TokenLengths:
    """Of `rendered` rows among `rows`: percentiles of their tokens, totals of all and of loss tokens, and problems.

    `too_long` are the rows over `max_length`, `special_tokens` those with a literal control token in a text.
    """

    rows: int
    rendered: int
    max_length: int
    percentiles: dict[str, int]
    tokens: int
    loss_tokens: int
    too_long: tuple[Problem, ...]
    unrendered: tuple[Problem, ...]
    special_tokens: tuple[Problem, ...] = ()

    @property
    def tokens_of_all(self) -> int:
        """The tokens of all rows, extrapolated from those rendered."""
        return round(self.tokens * self.rows / self.rendered) if self.rendered else 0


def measure_lengths(
    files: Sequence[FileScan], columns: Columns, renderer: "Renderer", max_length: int, *, most: int = MOST_RENDERED
) -> TokenLengths:
    """Render all rows, or `most` random ones; a file always gives the same sample."""
    chosen = list(range(len(columns)))
    if len(columns) > most:
        chosen = sorted(random.Random(0).sample(chosen, most))  # noqa: S311 - a sample, not a secret
    limit = min(max_length, renderer.longest_context)
    lengths, tokens, trained = list[int](), 0, 0
    too_long, unrendered, controls = list[Problem](), list[Problem](), list[Problem]()
    for index, row in zip(chosen, read_rows(files, columns, np.array(chosen, np.int64)), strict=True):
        path = str(files[int(columns.file[index])].path)
        try:
            sides = [one for side in _sides(row) for one in renderer.render_answers(side)]
        except ValueError as error:
            found = controls if isinstance(error, ControlTextError) else unrendered
            if len(found) < MAX_PROBLEMS:
                found.append(Problem(path, row.line, str(error)))
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
        tuple(controls),
    )


def _sides(row: Example | Pair) -> tuple[Example, ...]:
    return (row.preferred, row.rejected) if isinstance(row, Pair) else (row,)


_IGNORED = -100
_TELLING_CHARACTERS = 8
_THINK_TAG = re.compile("</?think>")


def check_mask(example: Example, rendered: "Sequence[RenderedExample]", control_ids: frozenset[int]) -> Iterator[str]:
    """Yield the defects of the loss masks of a conversation's examples as sentences.

    `control_ids` are the tokenizer's special tokens.
    """
    runs = [(one, end) for one in rendered for _, end in _runs(one)]
    spans = [span for one in rendered for span in one.loss_spans]
    in_loss = [message for message in example.messages if message.in_loss]
    if not runs:
        yield "has no loss tokens: there is nothing to train on"
        return
    if len(runs) != len(in_loss) or len(spans) != len(in_loss):
        yield f"has {len(runs)} spans of loss tokens for {len(in_loss)} messages in the loss: the mask is shifted"
        return
    for (one, end), message, (begin_at, end_at) in zip(runs, in_loss, spans, strict=True):
        text = one.text[begin_at:end_at]
        if one.labels[end - 1] not in control_ids:
            yield f"trains {_short(text)} without its stop token: the model would not learn to stop"
        if any(piece.strip() not in text for piece in _THINK_TAG.split(message.content)):
            yield f"trains {_short(text)}, which is not the whole answer {_short(message.content)}"
        for other in example.messages:
            prompt = other.content.strip()
            if not other.in_loss and len(prompt) >= _TELLING_CHARACTERS and prompt in text.replace(message.content, ""):
                yield f"trains the {other.role} message {_short(prompt)}: the prompt is not masked"


def control_ids(tokenizer: object) -> frozenset[int]:
    """Return the ids of all special tokens of a tokenizer, those of its chat template included."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = (number for number, token in added.items() if token.special)
    return frozenset([*getattr(tokenizer, "all_special_ids", ()), *special])


def _runs(rendered: "RenderedExample") -> Iterator[tuple[int, int]]:
    """Yield begin and end of each span of loss tokens."""
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
    """One rendered row: the examples of a conversation, or the two sides of a pair, the preferred one first."""

    line: int
    row_id: str
    examples: "tuple[RenderedExample, ...]"
    is_pair: bool


def first_rows(path: Path, most: int) -> list[Example | Pair]:
    """Read the first good rows of a file; raises `DataError` with the problems before them."""
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
    """Render rows; returns them with the problems of rows that cannot be rendered or have a wrong loss mask."""
    shown, problems, controls = list[PreviewRow](), list[Problem](), control_ids(renderer.tokenizer)
    for row in rows:
        try:
            sides = [(side, _examples(renderer, row, side)) for side in _sides(row)]
        except ValueError as error:
            problems.append(Problem(str(path), row.line, str(error)))
            continue
        for side, rendered in sides:
            problems += (Problem(str(path), row.line, text) for text in check_mask(side, rendered, controls))
        examples = tuple(one for _, rendered in sides for one in rendered)
        shown.append(PreviewRow(row.line, row.row_id, examples, isinstance(row, Pair)))
    return shown, problems


def _examples(renderer: "Renderer", row: Example | Pair, side: Example) -> "tuple[RenderedExample, ...]":
    """Return the examples of a conversation, or the one of a side of a pair."""
    return (renderer.render(side),) if isinstance(row, Pair) else renderer.render_answers(side)
