"""What is doubtful about a row that can be trained on, for a person to look at; each sign is a finding of a check."""

import json
import re
from collections.abc import Iterator, Sequence

from trainer.data.rows import Example, Message

# What the templates of common model families write between turns; a text that holds it ends a turn too early.
CONTROL_TEXT = re.compile(
    r"<\|[A-Za-z0-9_ ]{2,40}\|>|<｜[^<>｜]{2,40}｜>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|<(?:bos|eos|pad)>"
)
_EMPTY_THINKING = re.compile(r"<think(?:ing)?>\s*</think(?:ing)?>")

SIGNS = {
    "turn_order": "turns are in an order that many chat templates refuse, and no application sends; check the roles",
    "control_text": "texts hold what a tokenizer may read as a control token; take it out, or check with --base-model",
    "reasoning": "answers carry reasoning_content, which is learnt only where the base's chat template writes it; "
    "check with --base-model",
    "empty_thinking": "answers begin with an empty <think></think>: that teaches not to think; leave it out if that is "
    "not meant",
    "null_arguments": "tool calls have null arguments that their tool does not take, as tables fill them in; "
    "turntable data prepare takes them out",
    "long": "rows look longer than the longest length (4 characters a token); check with --base-model, and set "
    "--max-length to the recipe's",
}


def signs(example: Example) -> Iterator[tuple[str, str]]:
    """The name of each sign that a conversation shows, and a sentence about this row."""
    if order := _order(example.messages):
        yield "turn_order", order
    for index, message in enumerate(example.messages):
        where = f"messages[{index}]"
        is_marked = "<" in message.content or "[" in message.content
        if is_marked and (found := CONTROL_TEXT.search(message.content)):
            yield "control_text", f"{where}.content holds {found.group()!r}"
        if message.reasoning_content and message.learnt:
            yield "reasoning", f"{where} has reasoning_content"
        if message.learnt and "<think" in message.content and _EMPTY_THINKING.match(message.content.lstrip()):
            yield "empty_thinking", f"{where}.content begins with an empty <think></think>"
        for name in null_arguments(example, message):
            yield "null_arguments", f"{where} calls a tool with {name}: null"


def null_arguments(example: Example, message: Message) -> Iterator[str]:
    """The arguments of a message's calls that are null although the tool's schema names no null for them."""
    for call in message.tool_calls:
        function = call["function"]
        if "null" in function["arguments"]:
            arguments = json.loads(function["arguments"])
            yield from surplus_nulls(arguments, function["name"], example.tools)


def surplus_nulls(arguments: dict[str, object], name: str, tools: Sequence[object]) -> list[str]:
    """The names of null arguments that the tool of that name does not take as null."""
    taken: dict[str, object] = {}
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and function.get("name") == name:
            properties = (function.get("parameters") or {}).get("properties")
            taken = properties if isinstance(properties, dict) else {}
    return [key for key, value in arguments.items() if value is None and '"null"' not in json.dumps(taken.get(key))]


def _order(messages: Sequence[Message]) -> str | None:
    """What is unusual about the order of turns: system first if at all, then user and assistant by turns."""
    roles = [message.role for message in messages]
    for index, (before, role) in enumerate(zip([None, *roles], roles, strict=False)):
        if role == "system" and before not in (None, "system"):
            return f"messages[{index}] is a system message behind others"
        if role == "assistant" and before in (None, "system"):
            return f"messages[{index}] is an assistant message that nothing was asked before"
        if role == before and role == "user":
            return f"messages[{index}] is the second user message in a row"
        if role == before == "assistant" and not messages[index - 1].tool_calls:
            return f"messages[{index}] is the second assistant message in a row"
    return None
