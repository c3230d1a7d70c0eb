"""Answer profiles for drift: counts of answers in closed buckets, of training answers and of live ones.

Trainer and gateway use this one code, so a difference between the counts is one between the answers. No text is stored:
a value that the training answers did not have is counted as `(other)`.
"""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel as Schema
from pydantic import ConfigDict, Field, ValidationError

BASELINE = "baseline"
"""Field of training.json with the profile of the training answers."""
PROMPT, COMPLETION, ENDED, FORMAT, REFUSAL = "prompt_tokens", "completion_tokens", "ended", "format", "refusal"
FIELD = "field:"
STOP, LENGTH, VALID, INVALID, REFUSED, ANSWERED = "stop", "length", "valid", "invalid", "refused", "answered"
OTHER, NONE = "(other)", "(none)"
WHOLE = "answer"
"""Field name when the whole answer is a label."""
_EDGES = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384, 32768)
_MOST_CLASSES = 24
_ENOUGH = 0.95
_REFUSAL_WITHIN = 160
_REFUSALS = (
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "sorry, i can't",
    "sorry, i cannot",
    "i can't help with",
    "i cannot help with",
    "i can't assist",
    "i cannot assist",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "as an ai",
)
_Name = Annotated[str, Field(min_length=1, max_length=64)]
_Buckets = Annotated[dict[_Name, Annotated[int, Field(ge=0)]], Field(max_length=64)]
Counts = Mapping[str, Mapping[str, int]]


class AnswerShape(Schema):
    """Expected shape of an answer: a JSON object with these keys, one of these labels, or plain text.

    `classes` maps a field (the whole answer, for labels) to the values that it takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["json", "label", "text"]
    keys: Annotated[tuple[_Name, ...], Field(max_length=64)] = ()
    classes: Annotated[dict[_Name, tuple[_Name, ...]], Field(max_length=16)] = {}

    @classmethod
    def of(cls, answers: Sequence[str]) -> Self:
        """Infer the shape of nearly all answers."""
        objects = [found for found in map(_object, answers) if found is not None]
        if len(objects) >= _ENOUGH * max(len(answers), 1):
            present = Counter(key for found in objects for key in found)
            keys = [key for key, times in present.items() if times >= _ENOUGH * len(objects) and 0 < len(key) <= 64]
            columns = {key: [_label(found.get(key)) for found in objects] for key in sorted(keys)[:64]}
            classes = {key: values for key, column in columns.items() if (values := _values(column))}
            return cls(kind="json", keys=tuple(columns), classes=dict(list(classes.items())[:16]))
        labels = _values([_label(answer.strip()) for answer in answers])
        return cls(kind="label", classes={WHOLE: labels}) if labels else cls(kind="text")

    def counts_of(self, answer: str) -> Iterator[tuple[str, str]]:
        """Yield measure and bucket of everything that the text of an answer shows."""
        yield REFUSAL, REFUSED if is_refusal(answer) else ANSWERED
        if self.kind == "label":
            known = self._bucket(WHOLE, answer.strip())
            yield FORMAT, INVALID if known == OTHER else VALID
            yield FIELD + WHOLE, known
        elif self.kind == "json":
            found = _object(answer)
            yield FORMAT, VALID if found is not None and all(key in found for key in self.keys) else INVALID
            for field in self.classes:
                value = None if found is None else found.get(field)
                yield FIELD + field, NONE if value is None else self._bucket(field, value)

    def _bucket(self, field: str, value: Any) -> str:
        label = _label(value)
        return label if label is not None and label in self.classes[field] else OTHER


class Baseline(Schema):
    """Profile of the answers that a version was trained on: the baseline for drift."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    answers: Annotated[int, Field(gt=0)]
    shape: AnswerShape
    counts: Annotated[dict[Annotated[str, Field(max_length=96)], _Buckets], Field(max_length=32)]

    @classmethod
    def read(cls, training: Mapping[str, Any]) -> Self | None:
        """Read the baseline from training.json; None without a usable one."""
        try:
            return cls.model_validate(training[BASELINE])
        except (KeyError, ValidationError):
            return None

    @classmethod
    def of(cls, answers: Sequence["ProfiledAnswer"]) -> Self | None:
        """Profile answers; None without any."""
        if not answers:
            return None
        shape = AnswerShape.of([answer.text for answer in answers])
        counts: dict[str, Counter[str]] = {}
        for answer in answers:
            for measure, bucket in answer.buckets(shape):
                counts.setdefault(measure, Counter())[bucket] += 1
        return cls(answers=len(answers), shape=shape, counts={k: dict(v) for k, v in counts.items()})


@dataclass(frozen=True, slots=True)
class ProfiledAnswer:
    """An answer to profile: its text, its tokens with the prompt's before it, and how it ended (such as `stop`)."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    ended: str

    def buckets(self, shape: AnswerShape) -> Iterable[tuple[str, str]]:
        """Yield measure and bucket of everything that is counted."""
        yield PROMPT, _tokens(self.prompt_tokens)
        yield COMPLETION, _tokens(self.completion_tokens)
        yield ENDED, self.ended
        yield from shape.counts_of(self.text)


def is_refusal(answer: str) -> bool:
    """Return whether an answer begins (within 160 characters) with a usual refusal; a rule, not a judge."""
    begin = answer[:_REFUSAL_WITHIN].lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return any(words in begin for words in _REFUSALS)


def _tokens(number: int) -> str:
    at = bisect_left(_EDGES, number)
    return f"<={_EDGES[at]}" if at < len(_EDGES) else f">{_EDGES[-1]}"


def _object(answer: str) -> dict[str, Any] | None:
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _label(value: Any) -> str | None:
    """Return a value as a label; None when it cannot be one."""
    text = json.dumps(value) if isinstance(value, bool | int) else value
    return text if isinstance(text, str) and 0 < len(text) <= 64 else None


def _values(column: Sequence[str | None]) -> tuple[str, ...]:
    """Return the values of a categorical field; empty for free text."""
    distinct = sorted({value for value in column if value is not None})
    few = 1 < len(distinct) <= _MOST_CLASSES and len(distinct) * 5 <= len(column) and None not in column
    return tuple(distinct) if few else ()
