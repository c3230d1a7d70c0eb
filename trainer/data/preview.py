"""Whether the mask of a rendered row is what it has to be, judged from the row and not from how it was rendered.

The three classic faults of fine-tuning show here: nothing is learnt, the prompt is learnt, or the stop token is not.

The first rows of a file, rendered as the model will see them, with what is wrong with their masks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.data.loaders import Reader
from trainer.data.schema import Example, Pair, parse_row
from trainer.errors import DataError, Problem

if TYPE_CHECKING:
    from trainer.training.loss_mask import Rendered
if TYPE_CHECKING:
    from trainer.training.loss_mask import Rendered, Renderer


_IGNORED = -100
_TELLING_CHARACTERS = 8


def check_mask(example: Example, rendered: "Rendered", control_ids: frozenset[int]) -> Iterator[str]:
    """What is wrong with a mask, as sentences; `control_ids` are the tokenizer's special tokens."""
    runs = list(_runs(rendered))
    learnt = [message for message in example.messages if message.learnt]
    if not runs:
        yield "has no trained tokens: the loss would be taken over nothing"
        return
    if len(runs) != len(learnt) or len(rendered.learnt) != len(learnt):
        yield f"has {len(runs)} trained stretches for {len(learnt)} messages to learn: the mask is shifted"
        return
    for (_, end), message, (begin_at, end_at) in zip(runs, learnt, rendered.learnt, strict=True):
        text = rendered.text[begin_at:end_at]
        if rendered.labels[end - 1] not in control_ids:
            yield f"trains {_short(text)} without its stop token: the model would never learn to stop"
        if message.content.strip() not in text:
            yield f"trains {_short(text)}, which is not the whole answer {_short(message.content)}"
        for other in example.messages:
            prompt = other.content.strip()
            if not other.learnt and len(prompt) >= _TELLING_CHARACTERS and prompt in text.replace(message.content, ""):
                yield f"trains the {other.role} message {_short(prompt)}: the prompt is not masked"


def control_ids(tokenizer: object) -> frozenset[int]:
    """The ids of all special tokens of a tokenizer, those of its chat template included."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = (number for number, token in added.items() if token.special)
    return frozenset([*getattr(tokenizer, "all_special_ids", ()), *special])


def _runs(rendered: "Rendered") -> Iterator[tuple[int, int]]:
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
