"""Placeholders such as `{{name}}` that somebody forgot to fill in: a model would learn to say them.

What rows say about their own answers: marked as bad, rated low, or a pair whose scores prefer the other side.

A flag speaks for itself. A number does so beside the others of its field: the scale is told from the least and the most
of the file, and the lower part of it counts as bad.

What is doubtful about a row that can be trained on, for a person to look at; each sign is a finding of a check.
"""

import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.data.schema import Example, Message

_PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}")


def placeholders(text: str) -> list[str]:
    """The different placeholders of a text, sorted."""
    return sorted(set(_PLACEHOLDER.findall(text))) if "{{" in text else []


_GOOD_FLAGS = {
    *("kto_tag", "is_good", "good", "accepted", "is_accepted", "approved", "is_approved", "desirable", "is_desirable"),
    *("is_correct", "correct", "liked", "thumbs_up", "upvoted", "helpful", "is_helpful", "is_chosen", "is_preferred"),
}
_BAD_FLAGS = {
    *("is_bad", "bad", "rejected", "is_rejected", "undesirable", "thumbs_down", "disliked", "downvoted"),
    *("is_wrong", "hallucinated", "is_hallucination"),
}
_WORD_FIELDS = {
    "label",
    "feedback",
    "vote",
    "reaction",
    "thumbs",
    "rating",
    "kto_tag",
    "quality",
    "judgement",
    "verdict",
}
_BAD_WORDS = {
    *("bad", "rejected", "reject", "undesirable", "thumbs_down", "thumbs-down", "thumbsdown", "down", "dislike"),
    *("disliked", "incorrect", "wrong", "poor", "\N{THUMBS DOWN SIGN}"),
}
_STARS = {"rating", "stars", "star_rating"}
_SCORES = _STARS | {
    *("score", "reward", "quality", "quality_score", "overall_score", "human_score", "vote", "feedback"),
    *("helpfulness", "correctness", "preference_score", "user_rating"),
}
_PAIRED = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
    ("rating_chosen", "rating_rejected"),
    ("chosen_avg_rating", "rejected_avg_rating"),
    ("preferred_score", "non_preferred_score"),
)


class Ratings:
    """Collects what the rows of a check say of their answers, each under a number of its own."""

    def __init__(self) -> None:
        self._flagged: dict[int, str] = {}
        self._scores: dict[str, tuple[array[int], array[float]]] = {}

    def add(self, number: int, fields: Mapping[str, Any], answer: str) -> None:
        """Take one row that is no pair; `answer` is what it teaches."""
        for name, value in fields.items():
            if _is_bad_flag(name, value, answer):
                self._flagged.setdefault(number, f"{name} is {_shown(value)}")
            elif name in _SCORES and isinstance(value, int | float) and not isinstance(value, bool):
                numbers, values = self._scores.setdefault(name, (array("Q"), array("d")))
                numbers.append(number)
                values.append(value)

    def bad(self) -> dict[int, str]:
        """The rows whose answer is said to be bad, and what says so, in the order of the rows."""
        found = dict(self._flagged)
        for name, (numbers, values) in self._scores.items():
            most, is_scale = _low(name, values)
            for number, value in zip(numbers, values, strict=True):
                if is_scale and value <= most:
                    found.setdefault(number, f"{name} is {value:g}, where the file goes up to {max(values):g}")
        return dict(sorted(found.items()))


def conflicting_scores(fields: Mapping[str, Any]) -> Iterator[str]:
    """A sentence when the scores of a pair prefer the answer that it rejects."""
    for better, worse in _PAIRED:
        one, other = fields.get(better), fields.get(worse)
        if isinstance(one, int | float) and isinstance(other, int | float) and one < other:
            yield f"prefers the answer of the lower score ({better} {one:g}, {worse} {other:g})"


def _is_bad_flag(name: str, value: object, answer: str) -> bool:
    if name in _GOOD_FLAGS or (name == "label" and isinstance(value, bool)):
        return value is False or (name != "label" and value in (0, -1, "false", "False", "no", "0"))
    if name in _BAD_FLAGS:
        return value is True or value in (1, "true", "True", "yes", "1")
    if name in _WORD_FIELDS and isinstance(value, str):
        # A label that the answer repeats is the class of the row and no judgement of it.
        word = value.strip().lower()
        return word in _BAD_WORDS and word not in answer.lower()
    return False


def _low(name: str, values: "array[float]") -> tuple[float, bool]:
    """Up to where the values of a field are bad, and whether they form a scale that could tell."""
    least, most = min(values), max(values)
    if least < 0:
        return -1e-12, True
    if name in _STARS and most <= 5 and all(value == int(value) for value in values) and not (least == 0 and most <= 1):
        return 2, True
    for top, low in ((1, 0.4999), (5, 2), (10, 4), (100, 49.99)):
        if most <= top:
            return low, True
    return 0, False


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


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
        if message.reasoning_content and message.in_loss:
            yield "reasoning", f"{where} has reasoning_content"
        if message.in_loss and "<think" in message.content and _EMPTY_THINKING.match(message.content.lstrip()):
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
