"""What is inside an answer: one JSON document or none, the fields that are right, whether it fits the schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol


class Validator(Protocol):
    """The one question asked of a JSON Schema validator."""

    def is_valid(self, instance: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class Structure:
    """One answer looked at: `fields` says for each scored field whether it equals the expected one exactly."""

    schema_valid: bool
    fields: Mapping[str, bool]


class _Nothing:
    """No document at all; JSON's null is a document."""


NOTHING = _Nothing()


def look_at(answer: str, expected: str, validator: Validator | None, fields: Sequence[str]) -> Structure:
    """Compare one answer with the expected document and the schema.

    An answer counts only if it is exactly one JSON document: text around it, as chatty models write, is a failure,
    because the application that reads it would fail.
    """
    document, wanted = parse_document(answer), parse_document(expected)
    same = {
        field: isinstance(document, dict) and isinstance(wanted, dict) and document.get(field, ...) == wanted.get(field)
        for field in fields
    }
    return Structure(document is not NOTHING and validator is not None and validator.is_valid(document), same)


def parse_document(text: str) -> Any:
    """The one JSON document that `text` is, or `NOTHING`."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return NOTHING


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
