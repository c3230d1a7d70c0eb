"""Check that a chat template ends an answer with a token that the engine stops at, before any row is rendered."""

from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import RunError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_QUESTION, _ANSWER = "Seventeen plus four?", "Twenty-one"


def refuse_endless_answers(
    base: Path, tokenizer: "PreTrainedTokenizerBase", chat_template: str, stop_token_ids: Set[int]
) -> None:
    """Raise `RunError` when the template ends an answer without a stop token: a model trained on it would never stop.

    A template that refuses this plain exchange is not judged here: each row gets its own finding.
    """
    from jinja2 import TemplateError

    question = [{"role": "user", "content": _QUESTION}]
    answered = [*question, {"role": "assistant", "content": _ANSWER}]
    try:
        prompt = str(
            tokenizer.apply_chat_template(
                question, chat_template=chat_template, tokenize=False, add_generation_prompt=True
            )
        )
        whole = str(tokenizer.apply_chat_template(answered, chat_template=chat_template, tokenize=False))
    except (TemplateError, IndexError, KeyError, TypeError, ValueError):
        return
    if not whole.startswith(prompt) or _ANSWER not in whole[len(prompt) :]:
        return
    ending = whole[len(prompt) :].partition(_ANSWER)[2]
    if not stop_token_ids & set(tokenizer(ending, add_special_tokens=False)["input_ids"]):
        raise RunError(
            f"{base}: its chat template ends an answer with {ending.strip()!r}, which holds no end-of-turn token that "
            "the engine stops at; name that token as eos_token_id in its generation_config.json, or give a chat "
            "(instruct) model."
        )
