"""What can be wrong with the tools of a row, with the calls of them and with their results, in OpenAI's shape."""

import json
from collections.abc import Iterator, Sequence

_TOOL = '{"type": "function", "function": {"name": ..., "parameters": {...}}}'
_CALL = '{"id": ..., "type": "function", "function": {"name": ..., "arguments": "{...}"}}'


def check_tools(where: str, tools: object) -> Iterator[str]:
    """The definitions that a row carries; None and an empty list are fine."""
    if tools is None:
        return
    if not isinstance(tools, list):
        yield f"{where} is no list; write [{_TOOL}]"
        return
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            yield f"{where}[{index}] names no function; write {_TOOL}"
        elif not isinstance(function.get("parameters", {}), dict):
            yield f"{where}[{index}].function.parameters is no JSON schema object; write {_TOOL}"


def check_tool_calls(where: str, role: object, calls: object) -> Iterator[str]:
    """The `tool_calls` of one message."""
    if calls is None or calls == []:
        return
    if role != "assistant":
        yield f"{where} has tool_calls, but only assistant messages call tools; remove them"
    if not isinstance(calls, list):
        yield f"{where}.tool_calls is no list; write [{_CALL}]"
        return
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            yield f"{where}.tool_calls[{index}] names no function; write {_CALL}"
        elif not _is_arguments(function.get("arguments")):
            yield f"{where}.tool_calls[{index}].function.arguments is no JSON object in a string; write {_CALL}"


def check_tool_results(where: str, messages: Sequence[object]) -> Iterator[str]:
    """Every result answers a call that stands before it."""
    called, calls = set[str](), 0
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        made = message.get("tool_calls")
        for call in made if isinstance(made, list) else []:
            calls += 1
            if isinstance(call, dict) and isinstance(call.get("id"), str):
                called.add(call["id"])
        answered = message.get("tool_call_id")
        if answered is not None and (not isinstance(answered, str) or answered not in called):
            yield f"{where}[{index}].tool_call_id answers no call before it; give the id of the call"
        elif message.get("role") == "tool" and answered is None and calls > 1 and called:
            yield f"{where}[{index}] is a tool result without tool_call_id; give the id of the call that it answers"


def _is_arguments(arguments: object) -> bool:
    """Whether these are arguments: JSON of an object in a string."""
    if not isinstance(arguments, str):
        return False
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False
