"""OpenAI's Responses API."""

from typing import Any, ClassVar

import orjson

from gateway.apis.api import Api, InferenceRequest, Names, dump, read_answer
from gateway.apis.named_events import NamedEvents
from gateway.errors import EngineFailedError, GatewayError, InvalidRequestError
from gateway.usage import Usage


class Responses(Api):
    """POST /v1/responses. Nothing is stored, so what needs a stored response is refused."""

    path = "/v1/responses"
    required: ClassVar = {"input": (str, list)}
    id_field = "request_id"

    def parse(self, body: bytes, base: str) -> InferenceRequest:
        request = super().parse(body, base)
        for name in ("background", "previous_response_id"):
            if request.document.get(name):
                raise InvalidRequestError(
                    f"'{name}' needs stored responses, and none are stored here; send the whole conversation as "
                    "'input'.",
                    param=name,
                )
        return request

    def engine_body(self, request: InferenceRequest, engine_model: str) -> bytes:
        """The engine is told to store nothing, which is also what it does when asked otherwise."""
        return dump(request.document | {"model": engine_model, "store": False})

    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        document = read_answer(body)
        try:
            usage = Usage.from_responses(document["usage"])
        except (KeyError, TypeError, AttributeError) as error:
            raise EngineFailedError("The engine answered something that is not a response.") from error
        return orjson.dumps(document | {"model": names.client_model}), usage

    def stream(self, request: InferenceRequest, names: Names) -> "ResponsesStream":
        return ResponsesStream(request, names)

    def error_event(self, error: GatewayError) -> bytes:
        """OpenAI's `error` event; the SDKs raise what stands under its key `error`."""
        details = error.document()
        flat = {name: details["error"][name] for name in ("code", "message", "param")}
        return b"event: error\ndata: " + orjson.dumps({"type": "error", **flat, **details}) + b"\n\n"


class ResponsesStream(NamedEvents):
    """The event stream of a response."""

    delta_suffix = b".delta"
    last = b"response.completed"
    rewritten = frozenset(
        {
            b"response.created",
            b"response.in_progress",
            b"response.completed",
            b"response.incomplete",
            b"response.failed",
        }
    )

    def __init__(self, request: InferenceRequest, names: Names) -> None:
        super().__init__()
        self._model = names.client_model
        # Until the last event nothing tells how long the prompt was: four bytes are about a token.
        self._estimated_prompt_tokens = len(request.body) // 4

    def rewrite(self, name: bytes, document: dict[str, Any]) -> None:
        response = document["response"]
        response["model"] = self._model
        if name == b"response.created":
            self.prompt_tokens = self._estimated_prompt_tokens
        elif name == b"response.failed":
            self.saw_error = True
        elif name != b"response.in_progress":
            self.saw_end = True
            self.settle(Usage.from_responses(response["usage"]))
