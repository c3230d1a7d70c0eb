"""Tool calls over a real engine whose parser the gateway chose by itself."""

import json
from typing import Any

import pytest

from tests.conftest import Served

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_parcel",
            "description": "Say where a parcel is.",
            "parameters": {
                "type": "object",
                "properties": {"number": {"type": "string", "maxLength": 12}},
                "required": ["number"],
                "additionalProperties": False,
            },
        },
    }
]
NAMED = {"type": "function", "function": {"name": "find_parcel"}}


@pytest.mark.parametrize("choice", ["auto", "required", NAMED], ids=["auto", "required", "named"])
def test_tools_are_taken_without_any_argument_for_the_engine(served: Served, choice: Any) -> None:
    asked = {"model": "base", "messages": [{"role": "user", "content": "Where is parcel 17?"}], "max_tokens": 120}
    answer = served.http.post("/v1/chat/completions", json=asked | {"tools": TOOLS, "tool_choice": choice})
    assert answer.status_code == 200, answer.text
    calls = answer.json()["choices"][0]["message"].get("tool_calls") or []
    assert calls or choice == "auto"
    for call in calls:
        assert call["function"]["name"] == "find_parcel"
        assert set(json.loads(call["function"]["arguments"])) == {"number"}


PROPERTIES: dict[str, Any] = {"category": {"enum": ["billing", "shipping"]}, "urgent": {"type": "boolean"}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": PROPERTIES,
    "required": ["category", "urgent"],
    "additionalProperties": False,
}
FORMATS: dict[str, Any] = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "triage", "schema": SCHEMA}},
    "structured_outputs": {"json": SCHEMA},
    # multipleOf is a schema that vLLM's first backend refuses and its second one takes
    "second_backend": {
        "json": SCHEMA
        | {"properties": PROPERTIES | {"n": {"multipleOf": 5, "type": "integer", "maximum": 95, "minimum": 5}}}
    },
}


@pytest.mark.parametrize("form", FORMATS)
def test_an_answer_under_a_schema_never_runs_away_into_white_space(served: Served, form: str) -> None:
    """A bias makes line breaks the likeliest token wherever the grammar allows them, as in small models."""
    asked = {"model": "base", "prompt": "\n", "add_special_tokens": False}
    (line_break,) = served.http.post("/tokenize", json=asked).json()["tokens"]
    field = "response_format" if form == "response_format" else "structured_outputs"
    body = {
        "model": "base",
        "messages": [{"role": "user", "content": "I was charged twice. Answer in JSON."}],
        "temperature": 0,
        "max_tokens": 60,
        "logit_bias": {str(line_break): 100},
        field: FORMATS[form],
    }
    answer = served.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "stop", choice
    assert "\n" not in choice["message"]["content"]
    assert set(json.loads(choice["message"]["content"])) >= {"category", "urgent"}
