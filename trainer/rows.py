"""What one row of training data must look like: `{"messages": [{"role": ..., "content": ...}, ...]}`.

Each check returns plain sentences that name the field, what is in it, and the fix; where the row stands in which file
is added by whoever reads the file.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "user", "assistant", "tool")
_UNTRAINED_ROW_FIELDS = ("tools", "functions")
_UNTRAINED_MESSAGE_FIELDS = ("weight", "tool_calls", "function_call")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation to learn from; `line` is its line in the file it came from."""

    line: int
    messages: tuple[Message, ...]

    @classmethod
    def of(cls, line: int, messages: Iterable[Mapping[str, str]]) -> "Example":
        """An example from messages that passed `check_row`."""
        return cls(line, tuple(Message(message["role"], message["content"]) for message in messages))

    @property
    def digest(self) -> bytes:
        """Identity of the conversation: equal messages have equal digests, whatever their spelling as JSON."""
        turns = [[message.role, message.content] for message in self.messages]
        return hashlib.sha256(json.dumps(turns).encode()).digest()

    def as_dicts(self) -> list[dict[str, str]]:
        """The messages as chat templates and chat APIs take them."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


def foreign_shape(row: Mapping[str, Any]) -> str | None:
    """Another known format that a row follows: alpaca, sharegpt or preference; None for chat and unknown rows."""
    if "chosen" in row and "rejected" in row:
        return "preference"
    if "messages" in row:
        return None
    if "conversations" in row:
        return "sharegpt"
    return "alpaca" if "instruction" in row and "output" in row else None


def check_row(row: Mapping[str, Any]) -> Iterator[str]:
    """Everything wrong with one row, as sentences; nothing when it can be trained on."""
    messages = row.get("messages")
    if "messages" not in row:
        yield f'has no "messages", only {", ".join(sorted(row)[:8]) or "nothing"}; write {{"messages": [...]}}'
        return
    if not isinstance(messages, list) or not messages:
        yield f"messages is {_shown(messages)}; give a list of messages"
        return
    for name in _UNTRAINED_ROW_FIELDS:
        if row.get(name):
            yield f"has {name}, which training would ignore; remove it or leave the row out"
    for index, message in enumerate(messages):
        yield from _check_message(f"messages[{index}]", message)
    yield from _check_turns([message.get("role") if isinstance(message, dict) else None for message in messages])


def _check_message(where: str, message: object) -> Iterator[str]:
    if not isinstance(message, dict):
        yield f'{where} is {_shown(message)}; write {{"role": ..., "content": ...}}'
        return
    if message.get("role") not in ROLES:
        yield f"{where}.role is {_shown(message.get('role'))}; use {', '.join(ROLES[:-1])} or {ROLES[-1]}"
    for name in _UNTRAINED_MESSAGE_FIELDS:
        if message.get(name) is not None:
            yield f"{where} has {name}, which training would ignore; remove it or leave the row out"
    yield from _check_content(f"{where}.content", message.get("content"))


def _check_content(where: str, content: object) -> Iterator[str]:
    if not isinstance(content, str):
        yield f"{where} is {_shown(content)}; write the text as a string"
    elif not content.strip():
        yield f"{where} is empty; write the text or leave the row out"
    elif any("\ud800" <= character <= "\udfff" for character in content):
        yield f"{where} holds half of a surrogate pair, which is no text; save the file as UTF-8 again"


def _check_turns(roles: list[object]) -> Iterator[str]:
    if any(role not in ROLES for role in roles):
        return
    if "assistant" not in roles:
        yield "has no assistant message, so there is nothing to learn; add the wanted answer"
    elif roles[-1] != "assistant":
        yield f"ends with a {roles[-1]} message; end with the assistant message to learn"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return "missing or null" if value is None else text if len(text) <= 40 else f"{text[:37]}..."
