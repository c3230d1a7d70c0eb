"""Find the class labels in outputs, and the balance of the classes.

A short output is a class label; in a JSON output, a field can be. A field with more than `MOST_CLASSES` values is not a
class.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHORT_CHARACTERS = 40
MOST_CLASSES = 200
_MOST_FIELDS = 20
_ROWS_PER_CLASS = 5
_UNBALANCED = 10


@dataclass(frozen=True, slots=True)
class Balance:
    """The classes of one field, the most frequent first; `field` is None when the whole output is the class."""

    field: str | None
    counts: Mapping[str, int]

    @property
    def smallest(self) -> int:
        """Rows of the rarest class."""
        return min(self.counts.values())

    @property
    def unbalanced(self) -> bool:
        """Whether the most frequent class has ten times the rows of the rarest, or more."""
        return max(self.counts.values()) >= _UNBALANCED * self.smallest


class Labels:
    """Collect the class labels of rows; `wanted` is the JSON field of the label, dotted for nested ones."""

    def __init__(self, wanted: str | None = None) -> None:
        self.outputs = self.objects = 0
        self.wanted = wanted
        self._whole: Counter[str] | None = Counter()
        self._fields: dict[str, Counter[str] | None] = {}

    def add(self, answer: str) -> str | None:
        """Add one output and return its class label, the wanted field or the short text; None without one."""
        self.outputs += 1
        parsed = json_object(answer)
        if parsed is not None:
            self.objects += 1
            for name, value in self._candidates(parsed):
                self._fields[name] = _counted(self._fields.get(name, Counter()), value)
            return self.of(answer, parsed)
        self._whole = _counted(self._whole, answer.strip())
        return self.of(answer, None)

    def of(self, answer: str, parsed: Mapping[str, Any] | None) -> str | None:
        """Return the class label of one output, without counting it."""
        if self.wanted is not None:
            return None if parsed is None else dict(self._candidates(parsed)).get(self.wanted)
        text = answer.strip()
        return text if parsed is None and len(text) <= SHORT_CHARACTERS and "\n" not in text else None

    @property
    def balances(self) -> tuple[Balance, ...]:
        """The classes of the whole output, or of each field that has some: at least two, of five rows on average."""
        found: list[tuple[str | None, Counter[str] | None]] = [(None, self._whole), *self._fields.items()]
        return tuple(
            Balance(name, dict(counts.most_common()))
            for name, counts in found
            if counts and (name == self.wanted is not None or self._are_classes(counts))
        )

    def _are_classes(self, counts: Counter[str]) -> bool:
        return repeat_as_classes(counts) and 10 * counts.total() >= 9 * self.outputs

    def _candidates(self, parsed: Mapping[str, Any]) -> list[tuple[str, str]]:
        if self.wanted is not None:
            value: Any = parsed
            for name in self.wanted.split("."):
                value = value.get(name) if isinstance(value, dict) else None
            return [] if value is None else [(self.wanted, _text(value))]
        scalars = [(name, _text(value)) for name, value in parsed.items() if isinstance(value, str | bool | int)]
        return [one for one in scalars if one[0] in self._fields or len(self._fields) < _MOST_FIELDS]


def repeat_as_classes(counts: Counter[str]) -> bool:
    """Whether counted values are classes: at least two, of five rows on average, each a short line."""
    return (
        1 < len(counts) <= MOST_CLASSES
        and counts.total() >= _ROWS_PER_CLASS * len(counts)
        and all(len(name) <= SHORT_CHARACTERS and "\n" not in name for name in counts)
    )


def json_object(text: str) -> dict[str, Any] | None:
    """Parse a text as a JSON object; None if it is not one."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _counted(counts: Counter[str] | None, value: str) -> Counter[str] | None:
    if counts is None or len(value) > SHORT_CHARACTERS or (value not in counts and len(counts) >= MOST_CLASSES):
        return None
    counts[value] += 1
    return counts


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
