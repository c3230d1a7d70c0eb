"""OpenAI's chat completions, legacy completions and embeddings."""

from typing import Any, ClassVar

from gateway.core import InferenceRequest, Usage
from gateway.errors import EngineFailedError, InvalidRequestError
from gateway.inference.formats.base import Api, Names, read_answer, write_answer
from gateway.inference.formats.completions_stream import CompletionsStream
from gateway.inference.formats.fields import count_prompts

_ASK_FOR_USAGE = {"include_usage": True, "continuous_usage_stats": True}
# Null where OpenAI's schema says so; vLLM's other nulls stand for fields that OpenAI leaves out.
_NULLABLE = frozenset({"content", "refusal", "logprobs", "finish_reason", "text"})


class Completions(Api):
    """Complete one or more prompts; OpenAI's legacy completions API, with streaming."""

    path = "/v1/completions"
    salted = True
    required: ClassVar = {"prompt": (str, list)}

    def parse(self, body: bytes, base: str) -> InferenceRequest:
        request = super().parse(body, base)
        _options(request)
        return request

    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        document = read_answer(body)
        try:
            choices = [_without_nulls(choice) for choice in document["choices"]]
            if not choices or not all(isinstance(choice["finish_reason"], str) for choice in choices):
                raise EngineFailedError("The engine's completion is incomplete.")
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineFailedError("The engine's answer is not a completion.") from error
        counted = document.get("usage")
        answer = _without_nulls(document) | {
            "model": names.client_model,
            "system_fingerprint": names.fingerprint,
            "choices": choices,
        }
        if isinstance(counted, dict):
            answer["usage"] = {name: _tidy(value) for name, value in counted.items() if value is not None}
        return write_answer(answer), Usage.from_openai(counted)

    def stream(self, request: InferenceRequest, names: Names) -> CompletionsStream:
        options = _options(request)
        return CompletionsStream(
            names,
            include_usage=bool(options.get("include_usage")),
            continuous_usage=bool(options.get("continuous_usage_stats")),
            per_prompt=self.choices(request),
            choices=self.choices(request) * count_prompts(self.path, request.document),
        )

    def choices(self, request: InferenceRequest) -> int:
        return request.document.get("n") or 1

    def _engine_fields(self, request: InferenceRequest) -> dict[str, Any]:
        """Ask for running token counts on every stream, whether or not the client wants them."""
        return {"stream_options": _options(request) | _ASK_FOR_USAGE} if request.stream else {}


class ChatCompletions(Completions):
    """Answer a conversation, with streaming and tool calls; OpenAI's chat completions API."""

    path = "/v1/chat/completions"
    required: ClassVar = {"messages": (list,)}


class Embeddings(Api):
    """Embed one or more texts; only where the base is an embedding model. OpenAI's embeddings API."""

    path = "/v1/embeddings"
    streams = False
    salted = True
    required: ClassVar = {"input": (str, list)}

    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        document = read_answer(body)
        if not isinstance(document.get("data"), list) or not document["data"]:
            raise EngineFailedError("The engine's answer is not a list of embeddings.")
        return write_answer(document | {"model": names.client_model}), Usage.from_openai(document.get("usage"))


def _options(request: InferenceRequest) -> dict[str, Any]:
    options = request.document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidRequestError("'stream_options' has the wrong type; it must be an object.", param="stream_options")
    return options or {}


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _tidy(value) for name, value in fields.items() if value is not None or name in _NULLABLE}


def _tidy(value: Any) -> Any:
    """Drop the nulls of an object, one level down; log-probabilities and lists stay as the engine sent them."""
    if not isinstance(value, dict):
        return value
    return {name: inner for name, inner in value.items() if inner is not None or name in _NULLABLE}
