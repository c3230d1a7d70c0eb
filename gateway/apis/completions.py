"""OpenAI's chat completions, legacy completions and embeddings."""

from typing import Any, ClassVar

import orjson

from gateway.apis.api import Api, InferenceRequest, Names, dump, read_answer
from gateway.apis.completions_stream import CompletionsStream
from gateway.errors import EngineFailedError, InvalidRequestError
from gateway.usage import Usage

_ASK_FOR_USAGE = {"include_usage": True, "continuous_usage_stats": True}
# Null where OpenAI's schema says so; vLLM's other nulls stand for fields that OpenAI leaves out.
_NULLABLE = frozenset({"content", "refusal", "logprobs", "finish_reason", "text"})


class Completions(Api):
    """POST /v1/completions."""

    path = "/v1/completions"
    required: ClassVar = {"prompt": (str, list)}

    def parse(self, body: bytes, base: str) -> InferenceRequest:
        request = super().parse(body, base)
        _options(request)
        return request

    def engine_body(self, request: InferenceRequest, engine_model: str) -> bytes:
        """On streams the engine is asked for running token counts, whether or not the client wants them."""
        changed: dict[str, Any] = {"model": engine_model}
        if request.stream:
            changed["stream_options"] = _options(request) | _ASK_FOR_USAGE
        return dump(request.document | changed)

    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        document = read_answer(body)
        try:
            usage = Usage.from_openai(document["usage"])
            choices = [_without_nulls(choice) for choice in document["choices"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineFailedError("The engine answered something that is not a completion.") from error
        answer = _without_nulls(document) | {
            "model": names.client_model,
            "system_fingerprint": names.fingerprint,
            "choices": choices,
            "usage": {name: _tidy(value) for name, value in document["usage"].items() if value is not None},
        }
        return orjson.dumps(answer), usage

    def stream(self, request: InferenceRequest, names: Names) -> CompletionsStream:
        options = _options(request)
        return CompletionsStream(
            names,
            include_usage=bool(options.get("include_usage")),
            continuous_usage=bool(options.get("continuous_usage_stats")),
            per_prompt=self.choices(request),
            prompts=self._prompts(request),
        )

    def choices(self, request: InferenceRequest) -> int:
        return _count(request.document.get("n"))

    def _prompts(self, request: InferenceRequest) -> int:
        prompt = request.document["prompt"]
        return len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1


class ChatCompletions(Completions):
    """POST /v1/chat/completions."""

    path = "/v1/chat/completions"
    required: ClassVar = {"messages": (list,)}

    def _prompts(self, request: InferenceRequest) -> int:
        return 1


class Embeddings(Api):
    """POST /v1/embeddings; only embedding models answer."""

    path = "/v1/embeddings"
    streams = False
    required: ClassVar = {"input": (str, list)}

    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        document = read_answer(body)
        try:
            usage = Usage.from_openai(document["usage"])
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineFailedError("The engine answered something that is not a list of embeddings.") from error
        return orjson.dumps(document | {"model": names.client_model}), usage


def _options(request: InferenceRequest) -> dict[str, Any]:
    options = request.document.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise InvalidRequestError("'stream_options' has the wrong type; it must be an object.", param="stream_options")
    return options or {}


def _count(n: Any) -> int:
    return n if isinstance(n, int) and n > 0 else 1


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _tidy(value) for name, value in fields.items() if value is not None or name in _NULLABLE}


def _tidy(value: Any) -> Any:
    """Objects lose their nulls one level down; log-probabilities and all lists are the engine's own."""
    if not isinstance(value, dict):
        return value
    return {name: inner for name, inner in value.items() if inner is not None or name in _NULLABLE}
