"""Token lengths as the base model's own chat template makes them, and the rows that it cannot render or hold.

Of very many rows a random sample is rendered, and the report says so.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.data.scan import MOST_PROBLEMS, Columns, FileScan, read_rows
from trainer.data.schema import Example, Pair
from trainer.errors import Problem

if TYPE_CHECKING:
    from trainer.training.loss_mask import Renderer

MOST_RENDERED = 20_000
_PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True)
class Lengths:
    """Of `rendered` rows among `rows`: percentiles of their tokens, totals of all and of learnt tokens, what is wrong.

    `too_long` are the rows over `max_length` with the longest first in the sentence of the finding.
    """

    rows: int
    rendered: int
    max_length: int
    percentiles: dict[str, int]
    tokens: int
    trained_tokens: int
    too_long: tuple[Problem, ...]
    unrendered: tuple[Problem, ...]

    @property
    def tokens_of_all(self) -> int:
        """Tokens of all rows, extrapolated from those rendered."""
        return round(self.tokens * self.rows / self.rendered) if self.rendered else 0


def measure(
    files: Sequence[FileScan], columns: Columns, renderer: "Renderer", max_length: int, *, most: int = MOST_RENDERED
) -> Lengths:
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
            if len(unrendered) < MOST_PROBLEMS:
                unrendered.append(Problem(path, row.line, str(error)))
            continue
        lengths.append(max(len(side.input_ids) for side in sides))
        tokens += sum(len(side.input_ids) for side in sides)
        trained += sum(side.trained_tokens for side in sides)
        if lengths[-1] > limit:
            too_long.append(Problem(path, row.line, f"has {lengths[-1]:,} tokens, more than {limit:,}"))
    return Lengths(
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
