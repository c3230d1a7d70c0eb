"""What one row of training data is: a conversation to learn from, or a pair of answers to prefer one from.

A row keeps its identity wherever it stands: `row_id` is made from what the row teaches, so that a run can record which
rows it saw and a deletion request can be answered.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `weight` 0 on an assistant turn means that it is context and not learnt.

    `tool_calls`, `tool_call_id` and `name` are OpenAI's fields as they were read; `content` is empty beside tool calls.
    `reasoning_content` is what the model thought before it answered.
    """

    role: str
    content: str
    weight: int = 1
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None

    @classmethod
    def of(cls, message: Mapping[str, Any], *, context: bool = False) -> "Message":
        """A turn from a message that passed the checks; one that is mere `context` gets weight 0."""
        return cls(
            message["role"],
            message.get("content") or "",
            0 if context else int(message.get("weight", 1)),
            tuple(message.get("tool_calls") or ()),
            message.get("tool_call_id"),
            message.get("name"),
            message.get("reasoning_content"),
        )

    @property
    def learnt(self) -> bool:
        """Whether the loss is taken over this turn."""
        return self.role == "assistant" and self.weight != 0

    def as_dict(self) -> dict[str, Any]:
        """The turn as chat templates and chat APIs take it, without its weight."""
        carried = {
            "tool_calls": list(self.tool_calls),
            "tool_call_id": self.tool_call_id,
            "name": self.name,
            "reasoning_content": self.reasoning_content,
        }
        return {"role": self.role, "content": self.content} | {name: value for name, value in carried.items() if value}


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation to learn from; `line` is its line in the file, `tools` what the model could have called."""

    line: int
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, line: int, messages: Iterable[Mapping[str, Any]]) -> "Example":
        """An example without tools from messages that passed the checks."""
        return cls(line, tuple(Message.of(message) for message in messages))

    @property
    def digest(self) -> bytes:
        """Identity of the conversation: equal messages have equal digests, whatever their spelling as JSON."""
        return bytes.fromhex(self.row_id)

    @property
    def row_id(self) -> str:
        """`row_id` of the row this example came from."""
        return _hashed(_conversation(self.messages, self.tools))

    @property
    def answer_index(self) -> int:
        """The index of the last learnt message: what stands before it is the input, it is the output."""
        return max(index for index, message in enumerate(self.messages) if message.learnt)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The messages as chat templates and chat APIs take them."""
        return [message.as_dict() for message in self.messages]


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference: two conversations that part at the end, `preferred` being the better one.

    In both, only the turns of the two outputs are learnt; assistant turns of their common input have weight 0.
    """

    line: int
    preferred: Example
    rejected: Example

    @property
    def row_id(self) -> str:
        """`row_id` of the row this pair came from."""
        return _hashed([_conversation(side.messages, side.tools) for side in (self.preferred, self.rejected)])


def row_id(row: Mapping[str, Any]) -> str:
    """Identity of a checked row by what it teaches, as 64 hexadecimal digits.

    Key order, spacing, other fields and the format do not count: a prompt/completion row has the id of the same row
    written as messages, in every file and at every line.
    """
    return parse_row(0, row).row_id


def parse_row(line: int, row: Mapping[str, Any]) -> Example | Pair:
    """The example or pair that a row holds; the row has passed `check_row`."""
    if "messages" in row:
        return Example(line, _messages(row["messages"]), tuple(row.get("tools") or ()))
    if "preferred_output" in row:
        asked, tools = _messages(row["input"]["messages"], context=True), tuple(row["input"].get("tools") or ())
        sides = (_messages(row[name]) for name in ("preferred_output", "non_preferred_output"))
        preferred, rejected = (Example(line, (*asked, *side), tools) for side in sides)
        return Pair(line, preferred, rejected)
    prompt, completion = row["prompt"], row["completion"]
    asked = (Message("user", prompt),) if isinstance(prompt, str) else _messages(prompt, context=True)
    answer = (Message("assistant", completion),) if isinstance(completion, str) else _messages(completion)
    return Example(line, (*asked, *answer), tuple(row.get("tools") or ()))


def _messages(messages: Iterable[Mapping[str, Any]], *, context: bool = False) -> tuple[Message, ...]:
    return tuple(Message.of(message, context=context) for message in messages)


def _conversation(messages: Iterable[Message], tools: Iterable[Mapping[str, Any]]) -> list[Any]:
    turns = [
        message.as_dict() | ({"weight": 0} if message.role == "assistant" and message.weight == 0 else {})
        for message in messages
    ]
    return [turns, list(tools)]


def _hashed(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
