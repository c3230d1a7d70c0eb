"""Check one row and yield its defects as sentences with the field, its value and the fix; a row with one is refused.

Rows have one of three forms: chat `messages`, `prompt` and `completion`, or OpenAI's preference pairs, with tools and
tool calls in OpenAI's form. The reader adds file and line.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

_TOOL = '{"type": "function", "function": {"name": ..., "parameters": {...}}}'
_CALL = '{"id": ..., "type": "function", "function": {"name": ..., "arguments": "{...}"}}'


def check_tools(where: str, tools: object) -> Iterator[str]:
    """Check the tool definitions of a row; None and an empty list are valid."""
    if tools is None:
        return
    if not isinstance(tools, list):
        yield f"{where} is not a list; write [{_TOOL}]"
        return
    for index, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            yield f"{where}[{index}] has no function name; write {_TOOL}"
        elif not isinstance(function.get("parameters", {}), dict):
            yield f"{where}[{index}].function.parameters is not a JSON Schema object; write {_TOOL}"


def check_tool_calls(where: str, role: object, calls: object) -> Iterator[str]:
    """Check the `tool_calls` of one message."""
    if calls is None or calls == []:
        return
    if role != "assistant":
        yield f"{where} has tool_calls, but only assistant messages call tools; remove them"
    if not isinstance(calls, list):
        yield f"{where}.tool_calls is not a list; write [{_CALL}]"
        return
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            yield f"{where}.tool_calls[{index}] has no function name; write {_CALL}"
        elif not _is_arguments(function.get("arguments")):
            yield f"{where}.tool_calls[{index}].function.arguments is not a JSON object in a string; write {_CALL}"


def check_tool_results(where: str, messages: Sequence[object]) -> Iterator[str]:
    """Check that every tool result has an earlier call."""
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
            yield f"{where}[{index}].tool_call_id does not match an earlier tool call; give the id of the call"
        elif message.get("role") == "tool" and answered is None and calls > 1 and called:
            yield f"{where}[{index}] is a tool result without tool_call_id; give the id of its call"


def _is_arguments(arguments: object) -> bool:
    """Whether these are arguments: a JSON object in a string."""
    if not isinstance(arguments, str):
        return False
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


ROLES = ("system", "user", "assistant", "tool")
KINDS = {"messages": "messages", "prompt": "prompt/completion", "preferred_output": "preference pair"}
_PREPARE = "turntable data prepare"
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")
_LEGACY_FIELDS = ("functions", "function_call")
# Fields of questions and of answers in files without messages.
ASKED = (
    *("question", "query", "input", "user", "human", "text", "source", "instruction", "problem", "prompt", "request"),
    *("utterance", "sentence", "document", "article", "message", "ticket", "review", "email", "inputs"),
)
ANSWERED = (
    *("answer", "response", "output", "assistant", "target", "completion", "label", "reply", "solution", "intent"),
    *("category", "class", "summary", "translation", "label_text", "outputs", "targets", "gpt", "bot"),
    *("kind", "sentiment", "topic"),
)
# How other trainers take a message out of the loss: the field, and its value.
MASKING = {"loss": False, "train": False, "training": False, "trainable": False, "learn": False, "masked": True}
# How other formats name the reasoning before an answer.
THOUGHTS = ("thinking", "reasoning", "thought", "thoughts", "reasoning_text")
MOST_WEIGHT = 100
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_THINK_TAG = re.compile(r"<(/?)think(?:ing)?>")


def foreign_shape(row: Mapping[str, Any]) -> Literal["alpaca", "sharegpt", "preference", "columns"] | None:
    """Return the name that `prepare --from` has for a row's format; None for our own and unknown formats."""
    if "chosen" in row and "rejected" in row:
        return "preference"
    if "messages" in row or "preferred_output" in row or ("prompt" in row and "completion" in row):
        return None
    if "conversations" in row:
        return "sharegpt"
    if "instruction" in row and "output" in row:
        return "alpaca"
    return "columns" if usual_columns(row) else None


def usual_columns(row: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the roles of a row's fields when exactly one is named like a question and one like an answer."""
    asked, answered = ([name for name in row if str(name).strip().lower() in names] for names in (ASKED, ANSWERED))
    system = [name for name in row if str(name).strip().lower() in ("system", "system_prompt")]
    if len(asked) != 1 or len(answered) != 1:
        return None
    return {name: "system" for name in system[:1]} | {asked[0]: "user", answered[0]: "assistant"}


def check_row(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield every defect of one row as a sentence; nothing when it can be trained on."""
    yield from _check_row_weight(row)
    if "messages" in row:
        yield from _check_conversation(row)
    elif "preferred_output" in row or "non_preferred_output" in row:
        yield from _check_pair(row)
    elif "prompt" in row and "completion" in row:
        yield from _check_completion(row)
    else:
        held = ", ".join(sorted(row)[:8]) or "nothing"
        yield f'has no "messages", only {held}; write {{"messages": [...]}}'


def _check_conversation(row: Mapping[str, Any]) -> Iterator[str]:
    yield from _check_legacy(row, "")
    yield from check_tools("tools", row.get("tools"))
    messages = row["messages"]
    yield from _check_messages("messages", messages)
    if isinstance(messages, list) and messages:
        yield from _check_turns(messages)


def _check_completion(row: Mapping[str, Any]) -> Iterator[str]:
    yield from check_tools("tools", row.get("tools"))
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list):
        yield from _check_messages("prompt", prompt)
    else:
        yield from _check_text("prompt", prompt)
    if isinstance(completion, list):
        yield from _check_answer("completion", completion)
    else:
        yield from _check_text("completion", completion)


def _check_pair(row: Mapping[str, Any]) -> Iterator[str]:
    asked = row.get("input")
    if not isinstance(asked, dict):
        yield f'input is {shown(asked)}; write {{"input": {{"messages": [...]}}, ...}}'
    else:
        yield from check_tools("input.tools", asked.get("tools"))
        yield from _check_messages("input.messages", asked.get("messages"))
    outputs = [row.get("preferred_output"), row.get("non_preferred_output")]
    for name, output in zip(("preferred_output", "non_preferred_output"), outputs, strict=True):
        yield from _check_answer(name, output)
    if outputs[0] == outputs[1] and outputs[0]:
        yield "has the same answer twice; write two different outputs or remove the row"
    elif outputs[0] and _without_space(outputs[0]) == _without_space(outputs[1]):
        yield "has two answers that differ only in white space; write two different outputs or remove the row"


def _check_answer(where: str, messages: object) -> Iterator[str]:
    """Check one side of a pair: assistant messages with tool results between them, ending with an assistant message."""
    yield from _check_messages(where, messages)
    if isinstance(messages, list) and messages:
        roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
        if any(isinstance(one, dict) and one.get("weight", 1) not in (0, 1) for one in messages):
            yield f"{where} has a weight beside 0 and 1, which a preference cannot use; give the row a weight"
        if all(role in ROLES for role in roles) and (roles[-1] != "assistant" or {"user", "system"} & set(roles)):
            yield f"{where} contains {', '.join(map(str, roles))} messages; write the assistant message to train on"


def _check_messages(where: str, messages: object) -> Iterator[str]:
    if not isinstance(messages, list) or not messages:
        yield f"{where} is {shown(messages)}; give a list of messages"
        return
    for index, message in enumerate(messages):
        yield from _check_message(f"{where}[{index}]", message)
    yield from check_tool_results(where, messages)


def _check_message(where: str, message: object) -> Iterator[str]:
    if not isinstance(message, dict):
        yield f'{where} is {shown(message)}; write {{"role": ..., "content": ...}}'
        return
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        yield f"{where}.role is {shown(role)}; use {', '.join(ROLES[:-1])} or {ROLES[-1]}"
    yield from _check_legacy(message, f"{where} ")
    yield from _check_weight(where, message)
    yield from _check_thoughts(where, message)
    if name := message.get("name"):
        yield from _check_text(f"{where}.name", name)
    calls = message.get("tool_calls")
    yield from check_tool_calls(where, role, calls)
    if message.get("content") is not None or not calls:
        yield from _check_content(f"{where}.content", message.get("content"), called=bool(calls))


def _check_legacy(holder: Mapping[str, Any], where: str) -> Iterator[str]:
    for name in _LEGACY_FIELDS:
        if holder.get(name):
            yield f"{where}has {name}, which training would ignore; write tools and tool_calls, or remove the row"


def _check_weight(where: str, message: Mapping[str, Any]) -> Iterator[str]:
    weight = message.get("weight", 1)
    if not _is_weight(weight):
        yield (
            f"{where}.weight is {shown(weight)}; use 1 to train on the message, 0 to keep it as context, or another "
            f"factor of its loss up to {MOST_WEIGHT}"
        )
    elif "weight" in message and message.get("role") != "assistant":
        yield f"{where} has weight, but only assistant messages are in the loss; remove it"
    if message.get("role") == "assistant" and message.get("weight", 1) != 0 and (name := masked_by(message)):
        yield f"{where}.{name} is {shown(message[name])}, which training would ignore; write weight 0 ({_PREPARE} does)"


def _check_row_weight(row: Mapping[str, Any]) -> Iterator[str]:
    if not _is_weight(row.get("weight", 1)) or not row.get("weight", 1):
        yield (
            f"weight is {shown(row['weight'])}; give the factor of the row's loss, above 0 and up to {MOST_WEIGHT}, or "
            "rename the field"
        )


def _is_weight(weight: object) -> bool:
    return isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight <= MOST_WEIGHT


def masked_by(message: Mapping[str, Any]) -> str | None:
    """Return the field by which another trainer takes the message out of the loss."""
    said = (name for name, value in MASKING.items() if name in message and message[name] in (value, int(value)))
    return next((name for name in said if isinstance(message[name], int)), None)


def _check_thoughts(where: str, message: Mapping[str, Any]) -> Iterator[str]:
    if found := next((name for name in THOUGHTS if message.get(name)), None):
        yield f"{where} has {found}, which training would ignore; write reasoning_content ({_PREPARE} renames it)"
    if (thought := message.get("reasoning_content")) is None:
        pass
    elif message.get("role") != "assistant":
        yield f"{where} has reasoning_content, but only assistant messages have reasoning; remove it"
    else:
        yield from _check_text(f"{where}.reasoning_content", thought)
    content = message.get("content")
    if message.get("role") == "assistant" and isinstance(content, str) and "think" in content:
        yield from _check_think_tags(f"{where}.content", content)


def _check_think_tags(where: str, content: str) -> Iterator[str]:
    """Check that <think> tags are paired; tags in code are quoted and do not count."""
    is_open = False
    for tag in _THINK_TAG.finditer(_CODE.sub("", content)):
        if bool(tag[1]) != is_open:
            lone = "</think> without <think>" if tag[1] else "<think> within <think>"
            yield f"{where} has {lone}; pair the tags, or write the reasoning as reasoning_content"
            return
        is_open = not is_open
    if is_open:
        yield f"{where} has <think> without </think>: the answer is cut off; end the reasoning or remove the row"


def _check_content(where: str, content: object, *, called: bool) -> Iterator[str]:
    if called and isinstance(content, str) and not content.strip():
        return
    if isinstance(content, list) and content and all(isinstance(part, dict) for part in content):
        yield f"{where} is a list of parts; write the text as a string (turntable data prepare joins text parts)"
    else:
        yield from _check_text(where, content)


def _check_text(where: str, content: object) -> Iterator[str]:
    if not isinstance(content, str):
        yield f"{where} is {shown(content)}; write the text as a string"
    elif not content.strip():
        yield f"{where} is empty; write the text or remove the row"
    elif (found := _UNFIT.search(content)) and CONTROL.match(found.group()):
        yield f"{where} contains the control character U+{ord(found.group()):04X}; remove it ({_PREPARE} does)"
    elif found:
        yield f"{where} contains half of a surrogate pair; save the file as UTF-8 again"


def _check_turns(messages: list[object]) -> Iterator[str]:
    turns = [message for message in messages if isinstance(message, dict)]
    roles = [turn.get("role") for turn in turns]
    if len(turns) != len(messages) or any(not isinstance(role, str) or role not in ROLES for role in roles):
        return
    if "assistant" not in roles:
        yield "has no assistant message, so there is nothing to train on; add the expected answer"
    elif roles[-1] != "assistant":
        yield f"ends with a {roles[-1]} message; end with the assistant message to train on"
    elif all(turn.get("weight", 1) == 0 for turn in turns if turn["role"] == "assistant"):
        yield "gives every assistant message weight 0, so there is nothing to train on; leave one at weight 1"


def _without_space(output: object) -> str:
    return "".join(json.dumps(output, sort_keys=True).replace("\\n", "").replace("\\t", "").split())


def shown(value: object) -> str:
    """Return a value as JSON in at most 40 characters, for a sentence."""
    text = json.dumps(value, ensure_ascii=True)
    return "missing or null" if value is None else text if len(text) <= 40 else f"{text[:37]}..."
