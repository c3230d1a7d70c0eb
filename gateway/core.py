"""The data of one inference request: read this file first.

`RequestContext` is one request of one client. `gateway.inference.pipeline` fills it in step by step: its caller once
the key is known, its `InferenceRequest` once the body is parsed, its `Target` once it is routed. The ledger stores its
`Usage` and `UsageSource`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from adapters import Version

if TYPE_CHECKING:
    from gateway.auth.caller import Caller
    from gateway.inference.formats.base import Api

MOST_TOKENS = (1 << 31) - 1
"""Upper limit of token counts: more than any request uses, and sums of them fit the database."""

SHADOW_SUFFIX = " (shadow)"
_TRACE_HEADERS = (b"traceparent", b"tracestate")
_NO_COUNT = ""


def shadow_label(adapter: str) -> str:
    """Return the name that shadow requests of an adapter are summed up under, apart from clients' requests."""
    return adapter + SHADOW_SUFFIX


class Track(StrEnum):
    """Which version of a name a request was routed to; requests of a name without canary have no track but SHADOW."""

    LIVE = "live"
    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request is routed: `model` is the client's name, `engine_model` the engine's; the base has no version."""

    model: str
    engine_model: str
    version: Version | None
    track: Track | None = None

    @property
    def label(self) -> str:
        """The adapter's name, or the base's: a value from a closed list, fit for metrics and reports."""
        if self.version is None:
            return self.engine_model
        return shadow_label(self.version.name) if self.track is Track.SHADOW else self.version.name


@dataclass(frozen=True, slots=True)
class Route:
    """All targets of a model name; the shares of canary and shadow are parts of 2**64."""

    target: Target
    canary: Target | None = None
    canary_share: int = 0
    shadow: Target | None = None
    shadow_share: int = 0


@dataclass(slots=True)
class InferenceRequest:
    """A parsed request body: `document` is its JSON, never changed; `body` its bytes.

    The engine runs `sequences` sequences for it: prompts times answers to each.
    """

    model: str
    stream: bool
    document: dict[str, Any]
    body: bytes
    sequences: int = 1
    token_limit: tuple[str, int] | None = None
    """Field and value of the maximum of tokens that the gateway adds for the engine, where the client named none."""

    def limit(self, name: str) -> Any:
        """Return a field that limits tokens as the engine gets it; None when it gets none."""
        if self.token_limit is not None and self.token_limit[0] == name:
            return self.token_limit[1]
        return self.document.get(name)


@dataclass(slots=True)
class RequestContext:
    """One request of one client; `id` is ours and unique, `client_id` the `x-request-id` that the client sent."""

    id: str
    client_id: str | None
    api: "Api"
    headers: Mapping[bytes, bytes]
    """The client's request headers, names in lower case."""
    caller: "Caller" = field(init=False)
    """Set once the key is known; reading it before raises `AttributeError`, as for the two fields below."""
    request: InferenceRequest = field(init=False)
    """Set once the body is parsed."""
    target: Target = field(init=False)
    """Set once the request is routed."""
    keys_revision: int = 0
    """`Keyring.revision` before the key was last looked up."""
    received_s: float = 0.0
    """When the body was complete, on `time.perf_counter`."""
    shadow_target: Target | None = None
    """The shadow that gets this request too, once the client has its answer."""
    is_sampled: bool = False
    """The answer is part of the sample that drift is measured on."""
    captured: list[bytes] | None = None
    """Collects the response body for a shadow or for the sample; None when neither needs it."""
    is_on_ledger: bool = False
    """The request has a ledger row."""
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Extra headers of the response: ids, rate limits, cost."""

    @property
    def trace_headers(self) -> dict[str, str]:
        """The client's W3C trace headers, which the engine gets too."""
        return {name.decode(): self.headers[name].decode("latin-1") for name in _TRACE_HEADERS if name in self.headers}


class UsageSource(StrEnum):
    """Where token counts come from: the engine's final count, its last running count, our own estimate, or nowhere."""

    EXACT = "exact"
    LAST_CONTINUOUS = "last_continuous"
    ESTIMATED = "estimated"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `prompt_tokens` includes `cached_tokens`, as in OpenAI's usage object."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    is_sound: bool = field(default=True, compare=False)
    """False when a count was invalid (negative, text, a fraction, above `MOST_TOKENS`, more cached than prompt tokens)
    and was replaced by 0 or by the prompt tokens.
    """

    @property
    def evidence(self) -> UsageSource:
        """How well the engine's final count is known."""
        if self.is_sound:
            return UsageSource.EXACT
        return UsageSource.ESTIMATED if self.prompt_tokens or self.completion_tokens else UsageSource.NONE

    @classmethod
    def from_openai(cls, usage: object) -> "Usage":
        """Read OpenAI's usage object; absent details count as zero, an absent prompt count is invalid."""
        return cls._read(usage, "prompt_tokens", "completion_tokens", "prompt_tokens_details")

    @classmethod
    def from_responses(cls, usage: object) -> "Usage":
        """Read the usage object of the Responses API."""
        return cls._read(usage, "input_tokens", "output_tokens", "input_tokens_details")

    @classmethod
    def from_anthropic(cls, usage: object) -> "Usage":
        """Read Anthropic's usage object, whose `input_tokens` leaves cached tokens out."""
        if not isinstance(usage, Mapping):
            return cls(is_sound=False)
        names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        (prompt, completion, cached, created), is_sound = _counts(*(usage.get(name) for name in names))
        is_sound = is_sound and usage.get("output_tokens") is not None
        return cls(prompt + cached + created, completion, cached, is_sound)

    @classmethod
    def _read(cls, usage: object, prompt: str, completion: str, details: str) -> "Usage":
        if not isinstance(usage, Mapping):
            return cls(is_sound=False)
        found = usage.get(details)
        cached = found.get("cached_tokens") if isinstance(found, Mapping) else found and _NO_COUNT
        counts, is_sound = _counts(usage.get(prompt), usage.get(completion), cached)
        prompt_tokens, completion_tokens, cached_tokens = counts
        is_sound = is_sound and usage.get(prompt) is not None and cached_tokens <= prompt_tokens
        return cls(prompt_tokens, completion_tokens, min(cached_tokens, prompt_tokens), is_sound)


def _counts(*values: Any) -> tuple[list[int], bool]:
    """Return each value as a token count, absent and invalid ones as 0, and whether all of them are valid."""
    counts = [_count(value) for value in values]
    return counts, all(value is None or (type(value) is int and 0 <= value <= MOST_TOKENS) for value in values)


def _count(value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0
