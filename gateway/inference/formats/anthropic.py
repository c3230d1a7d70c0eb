"""Anthropic's Messages API with its error shape and its token counting."""

from dataclasses import replace
from typing import Any, ClassVar

import orjson

from gateway.core import InferenceRequest, Usage
from gateway.errors import EngineFailedError, GatewayError
from gateway.inference.formats.base import Api, Names, read_answer, write_answer
from gateway.inference.formats.sse import NamedEvents

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class _AnthropicApi(Api):
    keep_alive = b'event: ping\ndata: {"type": "ping"}\n\n'

    def error_body(self, error: GatewayError) -> bytes:
        default = "api_error" if error.status >= 500 else "invalid_request_error"
        details = {"type": _ERROR_TYPES.get(error.status, default), "message": str(error)}
        return orjson.dumps({"type": "error", "error": details})

    def error_event(self, error: GatewayError, _sent: bytes = b"") -> bytes:
        return b"event: error\ndata: " + self.error_body(error) + b"\n\n"


class Messages(_AnthropicApi):
    """Answer a conversation, with streaming; Anthropic's Messages API."""

    path = "/v1/messages"
    salted = True
    required: ClassVar = {"messages": (list,), "max_tokens": (int,)}

    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        document = read_answer(body)
        if not isinstance(document.get("content"), list) or not isinstance(document.get("stop_reason"), str):
            raise EngineFailedError("The engine's answer is not a complete message.")
        return write_answer(document | {"model": names.client_model}), Usage.from_anthropic(document.get("usage"))

    def stream(self, request: InferenceRequest, names: Names) -> "MessagesStream":
        return MessagesStream(names)


class MessagesStream(NamedEvents):
    """The event stream of a message."""

    delta_suffix = b"_block_delta"
    last = b"message_stop"
    rewritten = frozenset({b"message_start", b"message_delta"})

    def __init__(self, names: Names) -> None:
        super().__init__()
        self._model = names.client_model
        self._stop_reason: str | None = None

    def rewrite(self, name: bytes, document: dict[str, Any]) -> bytes:
        if name == b"message_start":
            document["message"]["model"] = self._model
            self.prompt_tokens = Usage.from_anthropic(document["message"].get("usage")).prompt_tokens
        else:
            self._stop_reason = (document.get("delta") or {}).get("stop_reason") or self._stop_reason
            usage = Usage.from_anthropic(document.get("usage"))
            if usage.prompt_tokens == 0:  # Anthropic's own API counts the prompt in `message_start` alone
                usage = replace(usage, prompt_tokens=self.prompt_tokens)
            self.settle(usage)
        return name

    def end(self) -> None:
        if self._stop_reason is None:
            self.fail("The engine's answer ended without a finish reason.")
        else:
            super().end()


class CountTokens(_AnthropicApi):
    """Count the prompt tokens of a conversation; Anthropic's token counting API. Not metered."""

    path = "/v1/messages/count_tokens"
    streams = False
    metered = False
    required: ClassVar = {"messages": (list,)}

    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        return body, Usage()
