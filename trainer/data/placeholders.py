"""Placeholders such as `{{name}}` that somebody forgot to fill in: a model would learn to say them."""

import re

_PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}")


def placeholders(text: str) -> list[str]:
    """The different placeholders of a text, sorted."""
    return sorted(set(_PLACEHOLDER.findall(text))) if "{{" in text else []
