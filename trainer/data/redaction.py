"""Redact PII in rows: each match becomes a mark such as `[EMAIL_1]`, the same one throughout the row.

An answer that repeats its question still does so, so the model learns to copy the mark. JSON texts stay JSON: a card
number written as a number becomes a string.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.data.pii import find_pii


class Redactor:
    """Redact one row; `counts` has the matches of each kind that were replaced."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._marks: dict[tuple[str, str], str] = {}
        self._numbers: dict[str, int] = {}

    def row(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return a redacted copy of the row: contents, tool calls, tools and all other fields."""
        # One look at all of it costs a tenth of many looks at short texts, and most rows hold nothing.
        if not find_pii("\n\n".join(_texts(fields))):
            return dict(fields)
        return {name: self._value(value) for name, value in fields.items()}

    def text(self, text: str) -> str:
        """Return the text with every match replaced; JSON stays JSON."""
        counted = dict(self.counts)
        redacted = self._plain(text)
        if redacted == text or text.lstrip()[:1] not in ("{", "["):
            return redacted
        before = _parsed(text)
        if before is not None and _parsed(redacted) is None:
            self.counts = counted
            return json.dumps(self._value(before, numbers=True), ensure_ascii=False)
        return redacted

    def _plain(self, text: str) -> str:
        # What follows a replaced piece may only now stand free, so this goes on until nothing is found.
        while found := find_pii(text):
            marks = [self._mark(one.kind, text[one.begin : one.end], text) for one in found]
            for one, mark in reversed(list(zip(found, marks, strict=True))):
                text = text[: one.begin] + mark + text[one.end :]
                self.counts[one.kind] = self.counts.get(one.kind, 0) + 1
        return text

    def _value(self, value: Any, *, numbers: bool = False) -> Any:
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(key): self._value(item, numbers=numbers) for key, item in value.items()}
            case list():
                return [self._value(item, numbers=numbers) for item in value]
            case int() if numbers and not isinstance(value, bool):
                redacted = self._plain(str(value))
                return value if redacted == str(value) else redacted
            case _:
                return value

    def _mark(self, kind: str, secret: str, text: str) -> str:
        key = kind, "".join(secret.split()).casefold()
        while key not in self._marks:
            self._numbers[kind] = self._numbers.get(kind, 0) + 1
            mark = f"[{kind}_{self._numbers[kind]}]"
            if mark not in text:
                self._marks[key] = mark
        return self._marks[key]


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of a value, field names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield name
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def count_row(fields: Mapping[str, Any]) -> dict[str, int]:
    """Count the matches of each kind in a row, without changing it."""
    redactor = Redactor()
    redactor.row(fields)
    return redactor.counts
