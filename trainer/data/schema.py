"""The rows of training data: a conversation to train on, or a preference pair.

The identity of a row, `row_id`, is a hash of its messages and tools, so that it is the same in every file. Runs record
it, which answers deletion requests.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LABELS = {"good": True, "true": True, "bad": False, "false": False}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; an assistant message of `weight` 0 is context, outside the loss.

    The loss of other messages is multiplied by their weight.

    `tool_calls`, `tool_call_id` and `name` are OpenAI's fields as they were read; `content` is empty beside tool calls.
    `reasoning_content` holds the reasoning before the answer.
    """

    role: str
    content: str
    weight: float = 1
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning_content: str | None = None

    @classmethod
    def of(cls, message: Mapping[str, Any], *, context: bool = False) -> "Message":
        """Make a message from a checked one; `context` gives it weight 0."""
        return cls(
            message["role"],
            message.get("content") or "",
            0 if context else message.get("weight", 1),
            tuple(message.get("tool_calls") or ()),
            message.get("tool_call_id"),
            message.get("name"),
            message.get("reasoning_content"),
        )

    @property
    def in_loss(self) -> bool:
        """Whether the loss is taken over this message."""
        return self.role == "assistant" and self.weight != 0

    def as_dict(self) -> dict[str, Any]:
        """Return the message as chat templates and chat APIs take it, without its weight."""
        carried = {
            "tool_calls": list(self.tool_calls),
            "tool_call_id": self.tool_call_id,
            "name": self.name,
            "reasoning_content": self.reasoning_content,
        }
        return {"role": self.role, "content": self.content} | {name: value for name, value in carried.items() if value}


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation to train on; `line` is its line in the file, `tools` the tools the model could have called.

    `weight` is the row's, by which the weights of its messages are multiplied. `is_good` is the `label` of the last
    answer, for KTO; None without one.
    """

    line: int
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    weight: float = 1
    is_good: bool | None = None

    @classmethod
    def of(cls, line: int, messages: Iterable[Mapping[str, Any]]) -> "Example":
        """Make an example without tools from checked messages."""
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
        """The index of the last message in the loss: the messages before it are the input, it is the output."""
        return max(index for index, message in enumerate(self.messages) if message.in_loss)

    def weight_of(self, index: int) -> float:
        """Return the factor of the loss of message `index`."""
        return self.weight * self.messages[index].weight

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the messages as chat templates and chat APIs take them."""
        return [message.as_dict() for message in self.messages]


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference pair: two conversations with the same input, `preferred` having the better output.

    Only the outputs are in the loss; assistant messages of the common input have weight 0.
    """

    line: int
    preferred: Example
    rejected: Example

    @property
    def row_id(self) -> str:
        """`row_id` of the row this pair came from."""
        return _hashed([_conversation(side.messages, side.tools) for side in (self.preferred, self.rejected)])


def row_id(row: Mapping[str, Any]) -> str:
    """Return the identity of a checked row: a SHA-256 of its messages and tools, as 64 hexadecimal digits.

    Key order, spacing, other fields and the format do not count: a prompt/completion row has the id of the same row
    written as messages, in every file and at every line.
    """
    return parse_row(0, row).row_id


def parse_row(line: int, row: Mapping[str, Any]) -> Example | Pair:
    """Parse a row that has passed `check_row`."""
    weight = row.get("weight", 1)
    if "messages" in row:
        return Example(line, _messages(row["messages"]), tuple(row.get("tools") or ()), weight, is_good(row))
    if "preferred_output" in row:
        asked, tools = _messages(row["input"]["messages"], context=True), tuple(row["input"].get("tools") or ())
        sides = (_messages(row[name]) for name in ("preferred_output", "non_preferred_output"))
        preferred, rejected = (Example(line, (*asked, *side), tools, weight) for side in sides)
        return Pair(line, preferred, rejected)
    prompt, completion = row["prompt"], row["completion"]
    asked = (Message("user", prompt),) if isinstance(prompt, str) else _messages(prompt, context=True)
    answer = (Message("assistant", completion),) if isinstance(completion, str) else _messages(completion)
    return Example(line, (*asked, *answer), tuple(row.get("tools") or ()), weight, is_good(row))


def is_good(row: Mapping[str, Any]) -> bool | None:
    """Return what a row's `label` says of its answer: true or "good", false or "bad"; None for anything else."""
    label = row.get("label")
    if isinstance(label, str):
        return _LABELS.get(label.strip().lower())
    return label if isinstance(label, bool) else None


def _messages(messages: Iterable[Mapping[str, Any]], *, context: bool = False) -> tuple[Message, ...]:
    return tuple(Message.of(message, context=context) for message in messages)


def _conversation(messages: Iterable[Message], tools: Iterable[Mapping[str, Any]]) -> list[Any]:
    turns = [
        message.as_dict()
        | ({"weight": message.weight or 0} if message.role == "assistant" and message.weight != 1 else {})
        for message in messages
    ]
    return [turns, list(tools)]


def _hashed(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
