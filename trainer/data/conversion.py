"""Rows in other known shapes turned into rows that are trained on, faithfully or not at all.

A converter takes the parsed row and gives a row of `messages` or a preference pair, or raises `ValueError` whose text
says why the row cannot be converted. Tool calls of ShareGPT become OpenAI's `tool_calls`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainer.data.reading import Shape, shape_of
from trainer.data.row_checks import check_row

Fields = Mapping[str, Any]
_SHAREGPT_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_CONVERTED = ("conversations", "instruction", "input", "output", "history", "system", "chosen", "rejected", "prompt")


def convert(row: object, shape: Shape) -> dict[str, Any]:
    """A checked row from one of the given shape; raises `ValueError` when there is no faithful one."""
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    actual = shape_of(row)
    if actual != shape:
        raise ValueError(f"is in {actual or 'no known'} shape, not {shape}")
    try:
        converted = _CONVERTERS[shape](row)
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"has {shape} fields of an unexpected type ({error})") from error
    if complaints := list(check_row(converted)):
        raise ValueError("; ".join(complaints))
    return converted


def _from_alpaca(row: Fields) -> dict[str, Any]:
    system, history = row.get("system"), row.get("history") or []
    messages = [_turn("system", system)] if system else []
    for asked, answered in history:
        messages += [_turn("user", asked), _turn("assistant", answered)]
    asked = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
    messages += [_turn("user", asked), _turn("assistant", row["output"])]
    return _others(row) | {"messages": messages}


def _from_sharegpt(row: Fields) -> dict[str, Any]:
    tools = _tools(row.get("tools"))
    messages = [_turn("system", row["system"])] if row.get("system") else []
    messages += _sharegpt_turns("conversations", row["conversations"])
    return _others(row) | {"messages": messages} | ({"tools": tools} if tools else {})


def _from_preference(row: Fields) -> dict[str, Any]:
    """Pairs with `chosen` and `rejected`: answers to `prompt` or `conversations`, or two whole conversations."""
    tools = _tools(row.get("tools"))
    chosen, rejected = (_side(name, row[name]) for name in ("chosen", "rejected"))
    if "conversations" in row:
        asked = _sharegpt_turns("conversations", row["conversations"])
    elif "instruction" in row:
        asked = _from_alpaca({**row, "output": ""})["messages"][:-1]
    elif "prompt" in row and chosen[0].get("role") == "assistant":
        asked = _side("prompt", row["prompt"], role="user")
    else:
        asked = _common(chosen, rejected)
        chosen, rejected = chosen[len(asked) :], rejected[len(asked) :]
    if row.get("system") and "instruction" not in row:
        asked = [_turn("system", row["system"]), *asked]
    given = {"messages": asked} | ({"tools": tools} if tools else {})
    return _others(row) | {"input": given, "preferred_output": chosen, "non_preferred_output": rejected}


def _from_messages(row: Fields) -> dict[str, Any]:
    """Our own kinds of rows: text parts are joined, all else stays."""
    converted = dict(row)
    for name in ("messages", "prompt", "completion", "preferred_output", "non_preferred_output"):
        if isinstance(row.get(name), list):
            converted[name] = [_joined(message) for message in row[name]]
    if "preferred_output" in row and isinstance(row.get("input"), dict):
        converted["input"] = _from_messages(row["input"])
    return converted


def _from_completion(row: Fields) -> dict[str, Any]:
    prompt, completion = row["prompt"], row["completion"]
    asked = [_turn("user", prompt)] if isinstance(prompt, str) else [_context(message) for message in prompt]
    answer = [_turn("assistant", completion)] if isinstance(completion, str) else list(completion)
    kept = {name: value for name, value in row.items() if name not in ("prompt", "completion")}
    return kept | {"messages": [*asked, *answer]}


_CONVERTERS: Mapping[Shape, Callable[[Fields], dict[str, Any]]] = {
    "alpaca": _from_alpaca,
    "sharegpt": _from_sharegpt,
    "preference": _from_preference,
    "messages": _from_messages,
    "prompt-completion": _from_completion,
}


def _sharegpt_turns(where: str, turns: Sequence[Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    pending: list[str] = []
    for index, turn in enumerate(turns):
        sender, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if sender == "function_call":
            calls = _calls(f"{where}[{index}]", value, len(messages))
            pending += [call["id"] for call in calls]
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        elif sender == "observation":
            answered = {"tool_call_id": pending.pop(0)} if pending else {}
            messages.append({**_turn("tool", value), **answered})
        elif sender in _SHAREGPT_ROLES:
            messages.append(_turn(_SHAREGPT_ROLES[sender], value))
        else:
            raise ValueError(
                f"{where}[{index}].from is {sender!r}; human, gpt, system, function_call and observation turns convert"
            )
    return messages


def _calls(where: str, value: object, number: int) -> list[dict[str, Any]]:
    """The calls of one ShareGPT turn: a JSON object with name and arguments, or a list of them."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        functions = parsed if isinstance(parsed, list) else [parsed]
        return [
            {
                "id": f"call_{number}_{index}",
                "type": "function",
                "function": {"name": function["name"], "arguments": _arguments(function.get("arguments"))},
            }
            for index, function in enumerate(functions)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f'{where} is no tool call; write {{"name": ..., "arguments": {{...}}}}') from error


def _arguments(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)


def _tools(tools: object) -> list[dict[str, Any]]:
    """Tool definitions in OpenAI's shape, from a list or from JSON of one; bare functions are wrapped."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise ValueError("has tools that are no JSON; write a list of tools") from error
    if not tools:
        return []
    if not isinstance(tools, list):
        raise ValueError("has tools that are no list; write a list of tools")
    bare = (isinstance(tool, dict) and "name" in tool and "function" not in tool for tool in tools)
    return [
        {"type": "function", "function": tool} if is_bare else tool for tool, is_bare in zip(tools, bare, strict=True)
    ]


def _side(name: str, value: Any, role: str = "assistant") -> list[dict[str, Any]]:
    """Turns from a text, from one ShareGPT turn or message, or from a list of them."""
    if isinstance(value, str):
        return [_turn(role, value)]
    turns = value if isinstance(value, list) else [value]
    if turns and all(isinstance(turn, dict) and "from" in turn for turn in turns):
        return _sharegpt_turns(name, turns)
    return [_joined(turn) for turn in turns]


def _common(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns that two whole conversations begin with, their last turns aside."""
    shared = 0
    while shared < min(len(one), len(other)) - 1 and one[shared] == other[shared]:
        shared += 1
    return one[:shared]


def _joined(message: Any) -> Any:
    """A message whose content is a string when it was a list of text parts."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return {**message, "content": "".join(str(part.get("text", "")) for part in content)}
    return message


def _context(message: Any) -> Any:
    """A message of a prompt: an assistant turn in it is not learnt."""
    return {**message, "weight": 0} if isinstance(message, dict) and message.get("role") == "assistant" else message


def _turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _others(row: Fields) -> dict[str, Any]:
    """The fields that the conversion does not use, such as an id or a group."""
    return {name: value for name, value in row.items() if name not in (*_CONVERTED, "tools")}
