"""Request guards: refuse what vLLM accepts and then dies of, starves others for, or fetches and runs.

By default vLLM fetches any address in a request from inside its own network, loads tensors with torch, and runs a chat
template as the program that it is. Applications send media as `data:` URLs and leave the template alone.

What was seen on a real engine, with causes and measurements, is in docs/decisions/0006. Each guard has a name, shown in
`GET /admin/v1/engines`. A guard refuses a request and names the field at fault; it never changes the request. Fields
that no client needs (`UNSERVED_FIELDS`) pass here, and are left out of the engine's body.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from gateway.errors import InvalidRequestError, RequestTooLargeError

MOST_CHOICES = 128  # OpenAI's own limit
MOST_MESSAGES = 2_048
MOST_GRAMMAR_BYTES = 64 << 10
MOST_TRUNCATED_BYTES = 256 << 10
MOST_TEXT_BYTES = 1 << 20
UNSERVED_FIELDS = ("kv_transfer_params", "ec_transfer_params", "prompt_logprobs")
"""Never sent to an engine: transfers of caches end it when nested; `prompt_logprobs` passes the guards only as null."""
_GRAMMARS = ("structured_outputs", "response_format", "text", "output_config", "tools")
_CHAT = "/v1/chat/completions"
_TEXT_ONLY = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})
_WITH_PARTS = ("messages", "input", "system")
_ADDRESSES = ("image_url", "audio_url", "video_url", "file_url")
_TENSORS = ("prompt_embeds", "image_embeds", "audio_embeds", "video_embeds")
_TEMPLATE_WORDS = frozenset({"chat_template", "tokenize"})


Guard = Callable[[str, dict[str, Any], int], None]
"""Takes a path, a document and the size of its body; raises `InvalidRequestError` naming the field."""


def guard_request(path: str, document: dict[str, Any], size: int) -> None:
    """Check a request of `size` bytes with every guard; raises `InvalidRequestError` naming the field at fault."""
    for check in REQUEST_GUARDS.values():
        check(path, document, size)


def guard_defects() -> dict[str, str]:
    """Return the defect of the engine that each guard is against, by the guard's name."""
    defects = {name: " ".join((check.__doc__ or "").split()) for name, check in REQUEST_GUARDS.items()}
    return defects | {"cache-transfer": "Deeply nested transfers of caches end the engine's worker; none are served."}


def _foreign_media(_path: str, document: dict[str, Any], _size: int) -> None:
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


def _chat_templates(_path: str, document: dict[str, Any], _size: int) -> None:
    """A template is a program that the engine runs: endless loops and more (CVE-2025-61620, CVE-2025-62426)."""
    if document.get("chat_template") is not None:
        raise InvalidRequestError("'chat_template' is not served here; the model's own is used.", param="chat_template")
    words = document.get("chat_template_kwargs")
    if isinstance(words, dict) and not _TEMPLATE_WORDS.isdisjoint(words):
        raise InvalidRequestError(
            f"'chat_template_kwargs' may not set {' or '.join(sorted(_TEMPLATE_WORDS))}.", param="chat_template_kwargs"
        )


def _check(part: dict[str, Any], name: str) -> None:
    """Check one message or part."""
    if part.get("type") in _TENSORS or any(tensor in part for tensor in _TENSORS):
        raise InvalidRequestError(f"'{name}' holds embeddings, which are not served here.", param=name)
    for address in _addresses(part):
        if not isinstance(address, str) or address[:5].lower() != "data:":
            raise InvalidRequestError(
                f"'{name}' names media by an address, which is not fetched here; send it as a data: URL.", param=name
            )


def _parts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a message and all parts nested in it, as results of tools have them."""
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


def _prompt_logprobs(path: str, document: dict[str, Any], _size: int) -> None:
    """With LoRA enabled, log-probabilities of prompt tokens end the engine (vLLM issues 16668, 29955)."""
    if document.get("prompt_logprobs") is not None:
        raise InvalidRequestError(
            "'prompt_logprobs' is not served here: with adapters it ends the engine; leave it out.",
            param="prompt_logprobs",
        )
    if document.get("echo") and path == _CHAT:  # where the engine takes it for prompt_logprobs, of 0 at the least
        raise InvalidRequestError(
            "'echo' is not served for chats: with adapters it ends the engine; leave it out.", param="echo"
        )
    asks = document.get("logprobs") is not None or document.get("top_logprobs") is not None
    if document.get("echo") and asks:
        raise InvalidRequestError(
            "'echo' together with log-probabilities is not served here: with adapters it ends the engine; "
            "leave one of them out.",
            param="echo",
        )


def _many_choices(_path: str, document: dict[str, Any], _size: int) -> None:
    """Thousands of choices for one prompt block all other requests for as long as they run."""
    for name in ("n", "best_of"):
        if (count := document.get(name) or 1) > MOST_CHOICES:
            raise InvalidRequestError(f"'{name}' is {count}; at most {MOST_CHOICES} are served.", param=name)


def _many_messages(_path: str, document: dict[str, Any], _size: int) -> None:
    """The engine's front end blocks while it renders thousands of messages."""
    for name in ("messages", "input"):
        if isinstance(items := document.get(name), list) and len(items) > MOST_MESSAGES:
            raise InvalidRequestError(
                f"'{name}' has {len(items)} entries; at most {MOST_MESSAGES} are served.", param=name
            )


def _large_grammars(_path: str, document: dict[str, Any], size: int) -> None:
    """Compiling a huge grammar, schema or list of choices goes on for long after the client has left."""
    if size <= MOST_GRAMMAR_BYTES:
        return
    for name in _GRAMMARS:
        if name in document and _length(document[name]) > MOST_GRAMMAR_BYTES:
            raise InvalidRequestError(f"'{name}' is larger than {MOST_GRAMMAR_BYTES} bytes.", param=name)


def _truncated_texts(_path: str, document: dict[str, Any], size: int) -> None:
    """Truncation switches off the engine's length check, so it tokenises a text of any length and blocks meanwhile."""
    if size <= MOST_TRUNCATED_BYTES:
        return
    for name in ("truncate_prompt_tokens", "truncation"):
        if document.get(name) not in (None, "disabled"):
            raise InvalidRequestError(
                f"'{name}' is served for requests of up to {MOST_TRUNCATED_BYTES} bytes; shorten the text.", param=name
            )


def _large_texts(path: str, _document: dict[str, Any], size: int) -> None:
    """The engine has one thread for tokenising: a huge text blocks all other prompts."""
    if size > MOST_TEXT_BYTES and path in _TEXT_ONLY:
        raise RequestTooLargeError(f"{path} takes up to {MOST_TEXT_BYTES} bytes; send the text in parts.")


def _length(value: Any) -> int:
    """Count characters and values of a field, nested ones included."""
    length, left = 0, [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            length += len(value)
        elif isinstance(value, dict):
            length += sum(map(len, value))
            left += value.values()
        elif isinstance(value, list):
            left += value
        else:
            length += 1
    return length


REQUEST_GUARDS: Mapping[str, Guard] = MappingProxyType(
    {
        "prompt-logprobs": _prompt_logprobs,
        "many-choices": _many_choices,
        "many-messages": _many_messages,
        "large-grammars": _large_grammars,
        "truncated-texts": _truncated_texts,
        "large-texts": _large_texts,
        "foreign-media": _foreign_media,
        "chat-templates": _chat_templates,
    }
)
