"""Extract the text of an answer of any API, whole or streamed, for comparisons and quality measures."""

from collections.abc import Iterator
from typing import Any

import orjson


def text_of(answer: bytes, *, is_stream: bool) -> str:
    """Return all generated text of an answer, reasoning and tool calls included; empty when there is none."""
    return "".join(_streamed(answer) if is_stream else _whole(_object(answer)))


def _streamed(answer: bytes) -> Iterator[str]:
    for line in answer.split(b"\n"):
        if line.startswith(b"data: {"):
            event = _object(line[6:])
            for choice in event.get("choices") or ():
                yield from _message(choice.get("delta") or choice)
            delta = event.get("delta")
            if isinstance(delta, str):  # Responses: any `….delta` event
                yield delta
            elif isinstance(delta, dict):  # Anthropic
                yield from _strings(delta, "text", "partial_json")


def _whole(document: dict[str, Any]) -> Iterator[str]:
    for choice in document.get("choices") or ():
        yield from _message(choice.get("message") or choice)
    for item in document.get("output") or ():
        yield from _strings(item, "arguments")
        for part in item.get("content") or ():
            yield from _strings(part, "text")
    content = document.get("content")
    for block in content if isinstance(content, list) else ():
        yield from _strings(block, "text")
        if "input" in block:
            yield orjson.dumps(block["input"]).decode()


def _message(message: dict[str, Any]) -> Iterator[str]:
    yield from _strings(message, "reasoning_content", "reasoning", "content", "text")
    for call in message.get("tool_calls") or ():
        yield from _strings(call.get("function") or {}, "name", "arguments")


def _strings(fields: dict[str, Any], *names: str) -> Iterator[str]:
    yield from (fields[name] for name in names if isinstance(fields.get(name), str))


def _object(text: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}
