"""Structured outputs: find the field that constrains the answer, and refuse schemas with broken references.

The engine compiles a grammar after it has accepted the request, and says "internal error" when that fails.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from gateway.errors import InvalidRequestError

_PLACES = (("response_format", None), ("text", "format"), ("output_config", "format"))
_BINDING = frozenset({"structured_outputs", *(name for name, _ in _PLACES)})
_PLAIN_FORMATS = (None, "text")
_NOT_THERE = (Unresolvable, TypeError, ValueError, AttributeError)


def binding_field(document: Mapping[str, Any]) -> str | None:
    """Name the field that constrains the answer to a grammar, a schema or a tool's arguments.

    None when the answer is free, as it is where tools may be called and need not be.
    """
    if document.get("structured_outputs") is not None:
        return "structured_outputs"
    for name, form in _formats(document):
        if form.get("type") not in _PLAIN_FORMATS:
            return name
    choice = document.get("tool_choice")
    must_call = (choice.get("type") if isinstance(choice, dict) else choice) not in (None, "auto", "none")
    return "tools" if document.get("tools") and must_call else None


def check_schemas(document: Mapping[str, Any]) -> None:
    """Check schemas for dangling and circular references; raises `InvalidRequestError` naming the field."""
    if _BINDING.isdisjoint(document):
        return
    for name, schema in _schemas(document):
        _check_references(name, schema)


def _formats(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each response format of a request with the name of its field."""
    for name, key in _PLACES:
        found = document.get(name)
        if key is not None and isinstance(found, dict):
            found = found.get(key)
        if isinstance(found, dict):
            yield name, found


def _schemas(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    outputs = document.get("structured_outputs")
    if isinstance(outputs, dict):
        yield "structured_outputs", _loaded(outputs.get("json"))
    for name, form in _formats(document):
        inner = form.get("json_schema")
        yield name, inner.get("schema") if isinstance(inner, dict) else form.get("schema")
        if isinstance(structural := form.get("format"), dict):
            yield name, structural.get("json_schema")


def _loaded(schema: Any) -> Any:
    if not isinstance(schema, str):
        return schema
    try:
        return orjson.loads(schema)
    except orjson.JSONDecodeError:
        return None  # which the engine refuses


def _check_references(name: str, schema: Any) -> None:
    """Follow each reference once and gather anchors once: schemas of a few kilobytes used to block the event loop."""
    references = [found for found in _references(schema) if found.startswith("#")]
    if not references:
        return
    registry = Registry().with_resource("", DRAFT202012.create_resource(schema))
    if any(not found.startswith("#/") and found != "#" for found in references):
        with contextlib.suppress(*_NOT_THERE):
            registry = registry.crawl()
    resolver = registry.resolver()
    sound: set[str] = set()
    for reference in references:
        seen, following = set(), reference
        while following not in sound:
            if following in seen:
                raise InvalidRequestError(
                    f"The schema in '{name}' refers to {reference[:100]!r}, which only refers back to itself.",
                    param=name,
                )
            seen.add(following)
            try:
                found = resolver.lookup(following).contents
            except _NOT_THERE as error:
                raise InvalidRequestError(
                    f"The schema in '{name}' refers to {following[:100]!r}, which is not in it.", param=name
                ) from error
            onward = found.get("$ref") if isinstance(found, dict) else None
            if not isinstance(onward, str) or not onward.startswith("#"):
                break
            following = onward
        sound |= seen


def _references(schema: Any) -> Iterator[str]:
    """Yield every `$ref` in a schema, nested ones included."""
    left = [schema]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if isinstance(reference := value.get("$ref"), str):
                yield reference
            left += value.values()
        elif isinstance(value, list):
            left += value
