"""Whether the mask of a rendered row is what it has to be, judged from the row and not from how it was rendered.

The three classic faults of fine-tuning show here: nothing is learnt, the prompt is learnt, or the stop token is not.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.data.rows import Example

if TYPE_CHECKING:
    from trainer.rendering import Rendered

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
