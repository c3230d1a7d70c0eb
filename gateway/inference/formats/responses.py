"""OpenAI's Responses API."""

import re
from typing import Any, ClassVar

import orjson

from gateway.core import InferenceRequest, Usage
from gateway.errors import EngineFailedError, GatewayError, InvalidRequestError
from gateway.inference.formats.base import Api, Names, read_answer, write_answer
from gateway.inference.formats.sse import NamedEvents

_COMPLETE_STATUSES = ("completed", "incomplete")  # a tuple: what the engine sends may be unhashable
_NUMBER = re.compile(rb'"sequence_number":\s*([0-9]+)')


class Responses(Api):
    """Answer an input, with streaming; OpenAI's Responses API. Stored responses are not supported."""

    path = "/v1/responses"
    salted = True
    required: ClassVar = {"input": (str, list)}
    id_field = "request_id"

    def parse(self, body: bytes, base: str) -> InferenceRequest:
        request = super().parse(body, base)
        for name in ("background", "previous_response_id"):
            if request.document.get(name):
                raise InvalidRequestError(
                    f"'{name}' needs stored responses, which this server does not keep; send the whole conversation as "
                    "'input'.",
                    param=name,
                )
        return request

    def whole(self, body: bytes, names: Names) -> tuple[bytes, Usage]:
        document = read_answer(body)
        if document.get("status") not in _COMPLETE_STATUSES or not isinstance(document.get("output"), list):
            raise EngineFailedError("The engine's answer is not a complete response.")
        return write_answer(document | {"model": names.client_model}), Usage.from_responses(document.get("usage"))

    def stream(self, request: InferenceRequest, names: Names) -> "ResponsesStream":
        return ResponsesStream(request, names)

    def error_event(self, error: GatewayError, sent: bytes = b"") -> bytes:
        """Return OpenAI's `error` event, numbered on from the events `sent`; SDKs raise its `error` object."""
        details = error.document()
        flat = {name: details["error"][name] for name in ("code", "message", "param")}
        numbers = _NUMBER.findall(sent)
        number = int(numbers[-1]) + 1 if numbers else 0
        fields = {"type": "error", "sequence_number": number, **flat, **details}
        return b"event: error\ndata: " + orjson.dumps(fields) + b"\n\n"

    def _engine_fields(self, request: InferenceRequest) -> dict[str, Any]:
        """Set `store` to false, which is what the engine does anyway."""
        return {"store": False}


class ResponsesStream(NamedEvents):
    """The event stream of a response."""

    delta_suffix = b".delta"
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
        # Only the last event reports the prompt's tokens; until then they are estimated at four bytes each.
        self._estimated_prompt_tokens = len(request.body) // 4

    def rewrite(self, name: bytes, document: dict[str, Any]) -> bytes:
        response = document["response"]
        response["model"] = self._model
        if name == b"response.created":
            self.prompt_tokens = self._estimated_prompt_tokens
        elif name == b"response.failed":
            self.fail("The engine failed on this request; its log has the details.")
        elif name != b"response.in_progress":
            self.settle(Usage.from_responses(response.get("usage")))
            return self._ended(name, document, response)
        return name

    def _ended(self, name: bytes, document: dict[str, Any], response: dict[str, Any]) -> bytes:
        """Rename an end at a token limit to `response.incomplete`; the engine calls every end `response.completed`."""
        status = response.get("status")
        if status not in _COMPLETE_STATUSES:
            self.fail("The engine's answer ended without a finish reason.")
            return name
        self.end()
        if status == "completed":
            return name
        response["incomplete_details"] = response.get("incomplete_details") or {"reason": "max_output_tokens"}
        document["type"] = "response.incomplete"
        return b"response.incomplete"
