"""Check a base's chat template before any row is rendered: an answer has to begin after a prompt and end with a stop.

Both are defects of the base, not of a row. Without a generation prompt, the model would be taught to write the header
of its own turn, and applications would read it; without a stop token it would never end.
"""

from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import RunError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED, _ANSWERED = "Seventeen plus four?", "Twenty-one"


def refuse_unusable_template(base: Path, tokenizer: "PreTrainedTokenizerBase", stop_token_ids: Set[int]) -> None:
    """Raise `RunError` when answers could not begin or end as the engine needs them.

    A template that refuses this plain exchange is not judged here: the rows will say what it refuses.
    """
    from jinja2 import TemplateError

    asked = [{"role": "user", "content": _ASKED}]
    answered = [*asked, {"role": "assistant", "content": _ANSWERED}]
    try:
        plain = str(tokenizer.apply_chat_template(asked, tokenize=False))
        prompt = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
        whole = str(tokenizer.apply_chat_template(answered, tokenize=False))
    except (TemplateError, IndexError, KeyError, TypeError, ValueError):
        return
    if not whole.startswith(prompt) or _ANSWERED not in whole[len(prompt) :]:
        return
    header, _, ending = whole[len(prompt) :].partition(_ANSWERED)
    if prompt == plain and header.strip():
        raise RunError(
            f"{base}: its chat template writes no generation prompt, so the model would have to write "
            f"{header.strip()!r} itself; add {{% if add_generation_prompt %}} with that text to the template, or give "
            "a chat (instruct) model."
        )
    if not stop_token_ids & set(tokenizer(ending, add_special_tokens=False)["input_ids"]):
        raise RunError(
            f"{base}: its chat template ends an answer with {ending.strip()!r}, which holds no end-of-turn token that "
            "the engine stops at; name that token as eos_token_id in its generation_config.json, or give a chat "
            "(instruct) model."
        )
