"""Find doubtful signs in valid rows: placeholders, bad ratings, conflicting scores, odd turn order, control tokens.

A numeric rating is judged by the range of its field in the file: the lower part of the scale counts as bad. Each sign
is a finding of a check.
"""

import json
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.data.schema import Example, Message

_PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}")


def placeholders(text: str) -> list[str]:
    """Return the different placeholders of a text, such as `{{name}}`, sorted."""
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
    """Collect the ratings of answers in rows, by row number."""

    def __init__(self) -> None:
        self._flagged: dict[int, str] = {}
        self._scores: dict[str, tuple[array[int], array[float]]] = {}

    def add(self, number: int, fields: Mapping[str, Any], answer: str) -> None:
        """Add one conversation with its answer."""
        for name, value in fields.items():
            if _is_bad_flag(name, value, answer):
                self._flagged.setdefault(number, f"{name} is {_shown(value)}")
            elif name in _SCORES and isinstance(value, int | float) and not isinstance(value, bool):
                numbers, values = self._scores.setdefault(name, (array("Q"), array("d")))
                numbers.append(number)
                values.append(value)

    def bad(self) -> dict[int, str]:
        """Return the rows whose answer is rated bad, with the reason, in order."""
        found = dict(self._flagged)
        for name, (numbers, values) in self._scores.items():
            most, is_scale = _low(name, values)
            for number, value in zip(numbers, values, strict=True):
                if is_scale and value <= most:
                    found.setdefault(number, f"{name} is {value:g}, where the file goes up to {max(values):g}")
        return dict(sorted(found.items()))


def conflicting_scores(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence when the scores of a pair prefer the rejected answer."""
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
    """Return the highest bad value of a field, and whether its values form a scale."""
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
    "turn_order": "rows have an order of messages that many chat templates refuse; check the roles",
    "control_text": "rows contain text that a tokenizer may read as a control token; remove it, or check with "
    "--base-model",
    "reasoning": "answers have reasoning_content, which is in the loss only if the base's chat template writes it; "
    "check with --base-model",
    "empty_thinking": "answers begin with an empty <think></think>, which teaches not to reason; remove it unless "
    "intended",
    "null_arguments": "tool calls have null arguments that their tool does not accept; turntable data prepare "
    "removes them",
    "long": "rows look longer than the longest length (4 characters a token); check with --base-model, and set "
    "--max-length to the recipe's",
}


def signs(example: Example) -> Iterator[tuple[str, str]]:
    """Yield the name of each sign of a conversation, and a sentence about this row."""
    if order := _order(example.messages):
        yield "turn_order", order
    for index, message in enumerate(example.messages):
        where = f"messages[{index}]"
        is_marked = "<" in message.content or "[" in message.content
        if is_marked and (found := CONTROL_TEXT.search(message.content)):
            yield "control_text", f"{where}.content contains {found.group()!r}"
        if message.reasoning_content and message.in_loss:
            yield "reasoning", f"{where} has reasoning_content"
        if message.in_loss and "<think" in message.content and _EMPTY_THINKING.match(message.content.lstrip()):
            yield "empty_thinking", f"{where}.content begins with an empty <think></think>"
        for name in null_arguments(example, message):
            yield "null_arguments", f"{where} calls a tool with {name}: null"


def null_arguments(example: Example, message: Message) -> Iterator[str]:
    """Yield the null arguments of a message's calls that the tool's schema does not accept as null."""
    for call in message.tool_calls:
        function = call["function"]
        if "null" in function["arguments"]:
            arguments = json.loads(function["arguments"])
            yield from surplus_nulls(arguments, function["name"], example.tools)


def surplus_nulls(arguments: dict[str, object], name: str, tools: Sequence[object]) -> list[str]:
    """Return the names of null arguments that the tool does not accept as null."""
    taken: dict[str, object] = {}
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and function.get("name") == name:
            properties = (function.get("parameters") or {}).get("properties")
            taken = properties if isinstance(properties, dict) else {}
    return [key for key, value in arguments.items() if value is None and '"null"' not in json.dumps(taken.get(key))]


def _order(messages: Sequence[Message]) -> str | None:
    """Describe an unusual order of messages; usual is an optional system message, then user and assistant in turn."""
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
