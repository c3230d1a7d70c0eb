"""From feedback to the next round's data: chat rows with the answer that was expected, and pairs of a better and a
worse answer, both in the formats that `turntable data check` and the trainer read.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def chat_rows(kept: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row for each piece of feedback that holds a conversation and the answer that was expected."""
    for one in kept:
        if one["messages"] and one["expected"]:
            yield {"messages": [*_asked(one["messages"]), _answer(one["expected"])]}


def pair_rows(kept: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One preference for each piece of feedback that also holds the answer that was given, where the two differ."""
    for one in kept:
        given = _given(one["messages"] or [])
        if given is not None and one["expected"] and one["expected"] != given:
            yield {
                "input": {"messages": _asked(one["messages"])},
                "preferred_output": [_answer(one["expected"])],
                "non_preferred_output": [_answer(given)],
            }


def _given(messages: list[dict[str, str]]) -> str | None:
    return messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else None


def _asked(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The conversation up to the answer; earlier turns of the assistant are context, not something to learn."""
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    return [{**message, "weight": 0} if message["role"] == "assistant" else message for message in asked]


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
