"""Rendered rows for people and for programs: what is learnt is green and stands in ⟦brackets⟧."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.text import Text

from trainer.data.rendering import PreviewRow

if TYPE_CHECKING:
    from trainer.training.loss_mask import RenderedExample

_SIDES = ("preferred", "rejected")


def masked(shown: PreviewRow) -> Text:
    """A row as text with its mask; both sides of a pair."""
    text = Text()
    for number, side in enumerate(shown.sides):
        name = f" ({_SIDES[number]})" if len(shown.sides) > 1 else ""
        tokens = f"{len(side.input_ids)} tokens, {side.loss_tokens} loss tokens"
        text.append(f"line {shown.line}{name}: {tokens}, row {shown.row_id[:12]}\n", style="bold")
        text.append_text(_side(side))
    return text


def as_json(shown: PreviewRow) -> dict[str, Any]:
    """A row with its ids and labels; of a conversation at the top, of a pair under the names of its sides."""
    sides = [asdict(side) for side in shown.sides]
    named = sides[0] if len(sides) == 1 else dict(zip(_SIDES, sides, strict=True))
    return {"line": shown.line, "row_id": shown.row_id} | named


def _side(side: "RenderedExample") -> Text:
    text, at = Text(), 0
    for begin, end in side.loss_spans:
        text.append(side.text[at:begin], style="dim")
        text.append(f"⟦{side.text[begin:end]}⟧", style="green")
        at = end
    return text.append(side.text[at:].rstrip("\n") + "\n", style="dim")
