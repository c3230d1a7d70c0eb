"""Shields against what a request would have the engine fetch, unpickle or run: addresses of media, tensors, templates.

vLLM fetches any address in a request by default, from inside the engine's network; it loads tensors with torch; and a
chat template is a program. Applications send media as `data:` URLs and let the model's own template be.
"""

from collections.abc import Iterator
from typing import Any

from gateway.errors import InvalidRequestError

_WITH_PARTS = ("messages", "input", "system")
_ADDRESSES = ("image_url", "audio_url", "video_url", "file_url")
_TENSORS = ("prompt_embeds", "image_embeds", "audio_embeds", "video_embeds")
_TEMPLATE_WORDS = frozenset({"chat_template", "tokenize"})


def foreign_media(_path: str, document: dict[str, Any], _size: int) -> None:
    """The engine would fetch any address that a request names, also of its own network, and load tensors with torch,
    which has run code and ended engines (CVE-2025-62164).
    """
    if document.get("prompt_embeds") is not None:
        raise InvalidRequestError("'prompt_embeds' is not served here; send text.", param="prompt_embeds")
    for name in _WITH_PARTS:
        items = document.get(name)
        if type(items) is not list:
            continue
        for item in items:
            if type(item) is dict and (type(item.get("content")) is not str or "type" in item):
                for part in _parts(item):
                    _check(part, name)


def chat_templates(_path: str, document: dict[str, Any], _size: int) -> None:
    """A template is a program that the engine runs: endless loops and more (CVE-2025-61620, CVE-2025-62426)."""
    if document.get("chat_template") is not None:
        raise InvalidRequestError("'chat_template' is not served here; the model's own is used.", param="chat_template")
    words = document.get("chat_template_kwargs")
    if isinstance(words, dict) and not _TEMPLATE_WORDS.isdisjoint(words):
        raise InvalidRequestError(
            f"'chat_template_kwargs' may not set {' or '.join(sorted(_TEMPLATE_WORDS))}.", param="chat_template_kwargs"
        )


def _check(part: dict[str, Any], name: str) -> None:
    """One message or part."""
    if part.get("type") in _TENSORS or any(tensor in part for tensor in _TENSORS):
        raise InvalidRequestError(f"'{name}' holds embeddings, which are not served here.", param=name)
    for address in _addresses(part):
        if not isinstance(address, str) or address[:5].lower() != "data:":
            raise InvalidRequestError(
                f"'{name}' names media by an address, which is not fetched here; send it as a data: URL.", param=name
            )


def _parts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A message and the parts within it, and within those, as results of tools have them; however deep."""
    left = [message]
    while left:
        part = left.pop()
        yield part
        for inner in (part.get("content"), part.get("output")):
            left += [item for item in inner if isinstance(item, dict)] if isinstance(inner, list) else ()


def _addresses(part: dict[str, Any]) -> Iterator[Any]:
    for name in _ADDRESSES:
        if (value := part.get(name)) is not None:
            yield value.get("url") if isinstance(value, dict) else value
    source = part.get("source")
    if isinstance(source, dict) and source.get("type") == "url":
        yield source.get("url")
