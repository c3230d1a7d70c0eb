"""A check for Schemathesis, which loads this file itself: a refusal has the shape of the API that was called."""

from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, Response


@schemathesis.check
def error_shape(_context: CheckContext, response: Response, case: Case[Any]) -> None:
    """OpenAI's `{"error": {message, type, param, code}}`; Anthropic's `{"type": "error", "error": {type, message}}`."""
    if response.status_code < 400:
        return
    document = response.json()
    error = document["error"]
    assert error["message"], "the error says nothing"
    assert error["type"], "the error has no type"
    if case.operation.path.startswith("/v1/messages"):
        assert document["type"] == "error", "not Anthropic's shape"
        assert set(error) == {"type", "message"}, "not Anthropic's shape"
    else:
        assert set(error) == {"message", "type", "param", "code"}, "not OpenAI's shape"
