"""How answers are scored, and how sure the figures are. No network, no models: text in, numbers out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NoReturn, Protocol

_Z_95 = 1.959963984540054


class Validator(Protocol):
    """The one question asked of a JSON Schema validator."""

    def is_valid(self, instance: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model said to one held-out row; `error` is set, and the rest empty, when the request failed."""

    model: str
    line: int
    text: str = ""
    finish_reason: str = ""
    latency_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer scored: `fields` says for each scored field whether it equals the expected one exactly."""

    schema_valid: bool
    fields: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Rate:
    """`hits` out of `of` answers."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """The share, 0 when there were no answers."""
        return self.hits / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, which stays sensible at 0 %, at 100 % and for few answers."""
        if not self.of:
            return 0.0, 1.0
        z2 = _Z_95 * _Z_95
        centre = (self.hits + z2 / 2) / (self.of + z2)
        half = _Z_95 / (self.of + z2) * math.sqrt(self.hits * (self.of - self.hits) / self.of + z2 / 4)
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model's column of the comparison; rates are over answered requests, failures are counted beside them."""

    model: str
    requests: int
    failed: int
    rates: Mapping[str, Rate]
    latency_p50_ms: float
    prompt_tokens: int
    completion_tokens: int


def judge(answer: str, expected: str, validator: Validator, fields: Sequence[str]) -> Verdict:
    """Score one answer against the expected document and the schema.

    An answer counts only if it is exactly one JSON document: text around it, as chatty models write, is a failure,
    because the application that reads it would fail.
    """
    document, wanted = parse_document(answer), parse_document(expected)
    same = {
        field: isinstance(document, dict) and isinstance(wanted, dict) and document.get(field, ...) == wanted.get(field)
        for field in fields
    }
    return Verdict(document is not NOTHING and validator.is_valid(document), same)


class _Nothing:
    """No document at all; JSON's null is a document."""


NOTHING = _Nothing()


def parse_document(text: str) -> Any:
    """The one JSON document that `text` is, or `NOTHING`."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOTHING


def score_model(
    model: str, answers: Sequence[Answer], expected: Mapping[int, str], validator: Validator, fields: Sequence[str]
) -> ModelScore:
    """Sum up one model's answers; `expected` maps the line of a row to the answer it should have given."""
    answered = [answer for answer in answers if answer.error is None]
    verdicts = [judge(answer.text, expected[answer.line], validator, fields) for answer in answered]
    of = len(answered)
    rates = {"schema_valid": Rate(sum(verdict.schema_valid for verdict in verdicts), of)}
    rates |= {field: Rate(sum(verdict.fields[field] for verdict in verdicts), of) for field in fields}
    rates["stopped"] = Rate(sum(answer.finish_reason == "stop" for answer in answered), of)
    return ModelScore(
        model=model,
        requests=len(answers),
        failed=len(answers) - of,
        rates=rates,
        latency_p50_ms=median(answer.latency_ms for answer in answered) if answered else 0.0,
        prompt_tokens=sum(answer.prompt_tokens for answer in answered),
        completion_tokens=sum(answer.completion_tokens for answer in answered),
    )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
