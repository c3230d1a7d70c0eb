"""Normalize one message to OpenAI's form: text parts, masks, reasoning, tool calls and control characters."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.row_checks import CONTROL, MASKING, THOUGHTS, masked_by
from trainer.data.row_signs import surplus_nulls

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant"} | {
    "developer": "system",
    "function": "tool",
    "observation": "tool",
}
_NAMED_IN = "id", "type", "function"


def usual_message(message: Any, tools: Sequence[Any] = ()) -> Any:
    """Normalize a message; a value that is not a message is returned as it is, for the row checks to report."""
    if not isinstance(message, Mapping):
        return message
    turn = {name: value for name, value in message.items() if value is not None or name in ("role", "content")}
    role = turn.get("role")
    turn["role"] = _ROLES.get(role, role) if isinstance(role, str) else role
    is_masked = masked_by(turn) is not None
    turn = {name: value for name, value in turn.items() if name not in MASKING}
    if is_masked and turn["role"] == "assistant":
        turn["weight"] = 0
    elif turn["role"] != "assistant":
        turn.pop("weight", None)
    for name in THOUGHTS:
        if isinstance(thought := turn.get(name), str) and "reasoning_content" not in turn:
            turn["reasoning_content"] = turn.pop(name)
            if not thought.strip():
                del turn["reasoning_content"]
    if "content" in turn:
        turn["content"] = plain_text(turn["content"])
    if isinstance(turn.get("function_call"), Mapping) and "tool_calls" not in turn:
        turn["tool_calls"] = [turn.pop("function_call")]
    if isinstance(turn.get("tool_calls"), list):
        turn["tool_calls"] = [usual_call(call, tools) for call in turn["tool_calls"]] or None
        turn = {name: value for name, value in turn.items() if name != "tool_calls" or value}
    return turn


def usual_messages(messages: Any, tools: Sequence[Any] = ()) -> Any:
    """Normalize all messages of a list; calls without an id get one, and so do the results that follow them."""
    if not isinstance(messages, list):
        return messages
    turns = [usual_message(message, tools) for message in messages]
    pending: list[str] = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            continue
        calls = turn.get("tool_calls")
        for place, call in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(call, dict) and not call.get("id"):
                call["id"] = f"call_{number}_{place}"
                pending.append(call["id"])
        if turn.get("role") == "tool" and "tool_call_id" not in turn and pending:
            turn["tool_call_id"] = pending.pop(0)
    return turns


def plain_text(content: Any) -> Any:
    """Join text parts into one string, without control characters."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    return CONTROL.sub("", content) if isinstance(content, str) else content


def usual_call(call: Any, tools: Sequence[Any] = ()) -> Any:
    """Normalize a tool call: arguments given as an object, as JSON of JSON or not at all become a JSON string.

    Null arguments that the tool does not accept are left out: tables fill them in for the arguments of other tools.
    """
    if not isinstance(call, Mapping):
        return call
    function = call.get("function", call if "name" in call else None)
    if not isinstance(function, Mapping):
        return dict(call)
    arguments = function.get("arguments", function.get("parameters"))
    for _ in range(2):
        if isinstance(arguments, str) and arguments.strip() and (inner := _parsed(arguments)) is not None:
            arguments = inner
    if arguments is None or arguments == "":
        arguments = {}
    if isinstance(arguments, dict):
        surplus = surplus_nulls(arguments, str(function.get("name")), tools)
        arguments = json.dumps({k: v for k, v in arguments.items() if k not in surplus}, ensure_ascii=False)
    kept = {name: call[name] for name in _NAMED_IN if call.get(name) is not None}
    return {**kept, "type": "function", "function": {"name": function.get("name"), "arguments": arguments}}


def without_nulls(value: Any) -> Any:
    """Remove the nulls that a table filled into a schema; a null in a list (as among allowed values) stays."""
    if isinstance(value, Mapping):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | str) else None


def turns_of(transcript: str) -> list[dict[str, Any]]:
    """Split a text such as `Human: … Assistant: …` into messages; empty when it is not such a transcript."""
    pieces = re.split(r"(?:^|\n\n)(Human|Assistant):[ \n]?", transcript.strip("\n"))
    if len(pieces) < 3 or pieces[0].strip():
        return []
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[sender], "content": said.strip()}
        for sender, said in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
