"""The inference paths as OpenAPI operations: what a fuzzer needs to know of OpenAI's and Anthropic's requests.

Only fields whose values decide how the gateway or the engine reads a request; the clients' own tests cover the rest.
"""

from typing import Any

_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": ["user", "assistant", "system"]},
        "content": {
            "anyOf": [
                {"type": "string", "maxLength": 20},
                {
                    "type": "array",
                    "maxItems": 2,
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": {"type": "string", "maxLength": 20}},
                        "required": ["type", "text"],
                    },
                },
            ]
        },
    },
    "required": ["role", "content"],
}
_MESSAGES = {"type": "array", "minItems": 1, "maxItems": 3, "items": _MESSAGE}
_TEXT = {"type": "string", "minLength": 1, "maxLength": 20}
_LIMIT = {"type": "integer", "minimum": 1, "maximum": 8}
_SAMPLING = {
    "stream": {"type": "boolean"},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
}
_COMPLETION = _SAMPLING | {
    "max_tokens": _LIMIT,
    "n": {"type": "integer", "minimum": 1, "maximum": 2},
    "seed": {"type": "integer", "minimum": 0, "maximum": 2**31},
    "stop": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 3}]},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
}
_REQUESTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "/v1/chat/completions": (_COMPLETION | {"messages": _MESSAGES}, ["messages", "max_tokens"]),
    "/v1/completions": (_COMPLETION | {"prompt": _TEXT}, ["prompt", "max_tokens"]),
    "/v1/responses": (_SAMPLING | {"input": _TEXT, "max_output_tokens": _LIMIT}, ["input", "max_output_tokens"]),
    "/v1/embeddings": ({"input": _TEXT, "stream": {"type": "boolean"}}, ["input"]),
    "/v1/messages": (_SAMPLING | {"messages": _MESSAGES, "max_tokens": _LIMIT}, ["messages", "max_tokens"]),
    "/v1/messages/count_tokens": ({"messages": _MESSAGES, "stream": {"type": "boolean"}}, ["messages"]),
    "/tokenize": ({"prompt": _TEXT, "stream": {"type": "boolean"}}, ["prompt"]),
    "/detokenize": ({"tokens": {"type": "array", "items": {"type": "integer"}, "maxItems": 4}}, ["tokens"]),
}


def operations() -> dict[str, Any]:
    """The `paths` of an OpenAPI document, one POST each."""
    return {path: {"post": _operation(fields, required)} for path, (fields, required) in _REQUESTS.items()}


def _operation(fields: dict[str, Any], required: list[str]) -> dict[str, Any]:
    properties = fields | {"model": {"enum": ["base", "nobody"]}}
    schema = {"type": "object", "properties": properties, "required": ["model", *required]}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"requestBody": body, "responses": {"200": {"description": "The answer."}}}
