"""Compare tokenizer files saved with an adapter with the base model's: the engine serves with the base's.

An adapter trained with another chat template, or with added tokens, would be prompted in tokens that it never saw.
Equal files are the usual case and pass.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from adapters.base_model import BaseModel, read_chat_template
from adapters.errors import PreflightError
from adapters.layout import ADDED_TOKENS_FILE, TEMPLATE_FILE, TOKENIZER_CONFIG, TOKENIZER_FILE, TOKENIZER_FILES
from adapters.manifest import TRAINING_FILE

# The engine's own arguments of a rendering; every other name is a variable of the template.
RESERVED_TEMPLATE_KWARGS = frozenset(
    {
        *("add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "messages"),
        *("return_dict", "tokenize", "tools"),
    }
)
_MAX_BYTES = 128 << 20


def check_tokenizer(directory: Path, base: BaseModel | None) -> None:
    """Raise `PreflightError` when the adapter's own chat template or tokens are not the base's."""
    present = [name for name in TOKENIZER_FILES if (directory / name).is_file()]
    for name in present:
        if (directory / name).stat().st_size > _MAX_BYTES:
            raise PreflightError(name, f"is larger than {_MAX_BYTES >> 20} MiB; leave it out.")
    if base is None or not present:
        return
    try:
        _check_template(directory, base)
        _check_tokens(directory, base)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PreflightError(present[0], "is no tokenizer's file; save it again, or leave it out.") from error


def check_template_kwargs(training: Mapping[str, Any]) -> None:
    """Raise `PreflightError` when training.json sets more than variables of the chat template.

    The gateway adds them to every request for the adapter, and a template among them is a program that the engine runs.
    """
    kwargs = training.get("chat_template_kwargs")
    where = f"{TRAINING_FILE}: chat_template_kwargs"
    if kwargs is not None and not isinstance(kwargs, dict):
        raise PreflightError(where, "is no object; write the variables of the chat template by name, or leave it out.")
    if reserved := sorted(RESERVED_TEMPLATE_KWARGS.intersection(kwargs or ())):
        raise PreflightError(
            where, f"sets {reserved[0]}, which the engine sets itself; leave it out, variables of the template alone."
        )


def tokenizer_remarks(directory: Path, base: BaseModel | None) -> Iterator[str]:
    """List what could not be compared, as sentences."""
    if base is not None:
        return
    present = [name for name in TOKENIZER_FILES if (directory / name).is_file()]
    if present:
        yield (
            f"It brings {', '.join(present)}, which could not be compared, because the base's files are not at hand: "
            "it is served with the engine's own chat template and tokens."
        )


def _check_template(directory: Path, base: BaseModel) -> None:
    own = read_chat_template(directory)
    if own is None or base.chat_template is None or own.strip() == base.chat_template.strip():
        return
    where = TEMPLATE_FILE if (directory / TEMPLATE_FILE).is_file() else f"{TOKENIZER_CONFIG}: chat_template"
    raise PreflightError(
        where,
        "is not the chat template that is served: prompts would look other than in training; serve the base with this "
        "template (vLLM's --chat-template), or leave the file out when the adapter was not trained with it.",
    )


def _check_tokens(directory: Path, base: BaseModel) -> None:
    if not (base.path / TOKENIZER_FILE).is_file() or _same(directory / TOKENIZER_FILE, base.path / TOKENIZER_FILE):
        return
    served = _read(base.path / TOKENIZER_FILE)
    known: dict[str, int] = {**_vocabulary(served), **{one["content"]: one["id"] for one in _added(served)}}
    names = {number: token for token, number in known.items()}
    padding = _padding(directory)  # training masks it and serving has none, so a new one means nothing
    for where, token, number in _own_tokens(directory):
        if known.get(token) == number or token == padding:
            continue
        has = (
            f"token {number} of the served base is {names[number]!r:.60}" if number in names else "the base ends before"
        )
        raise PreflightError(
            where,
            f"brings the token {token!r:.60} with the number {number}, and {has}; train on the base's own tokens, or "
            "leave the file out when the adapter was not trained with it.",
        )


def _own_tokens(directory: Path) -> Iterator[tuple[str, str, int]]:
    """Yield file, text and id of each token added to the vocabulary."""
    if (path := directory / TOKENIZER_FILE).is_file():
        for one in _added(_read(path)):
            yield TOKENIZER_FILE, one["content"], one["id"]
    if (path := directory / TOKENIZER_CONFIG).is_file():
        for number, one in (_read(path).get("added_tokens_decoder") or {}).items():
            yield TOKENIZER_CONFIG, one["content"], int(number)
    if (path := directory / ADDED_TOKENS_FILE).is_file():
        for token, number in _read(path).items():
            yield ADDED_TOKENS_FILE, token, number


def _padding(directory: Path) -> str | None:
    path = directory / TOKENIZER_CONFIG
    token = _read(path).get("pad_token") if path.is_file() else None
    return token.get("content") if isinstance(token, dict) else token


def _vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = tokenizer["model"].get("vocab") or {}
    if isinstance(vocabulary, list):  # of a unigram model: pairs of token and score, numbered by their places
        return {token: number for number, (token, _) in enumerate(vocabulary)}
    return dict(vocabulary)


def _added(tokenizer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return tokenizer.get("added_tokens") or []


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = orjson.loads(path.read_bytes())
    return document
