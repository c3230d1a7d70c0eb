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
