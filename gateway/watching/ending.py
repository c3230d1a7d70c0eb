"""How an answer ended, in any of the APIs: by itself, at a limit, or otherwise."""

import re

from adapters.answer_profile import LENGTH, STOP
from adapters.answer_profile import OTHER as OTHERWISE

# Outside of JSON strings every quote is bare, inside it is escaped: text that a model wrote cannot match.
_REASON = re.compile(rb'(?<!\\)"(?:finish_reason|stop_reason|status)"\s*:\s*"([a-z_]+)"')
_BY_ITSELF = frozenset(
    {b"stop", b"tool_calls", b"function_call", b"end_turn", b"stop_sequence", b"tool_use", b"completed"}
)
_AT_A_LIMIT = frozenset({b"length", b"max_tokens", b"incomplete"})


def ending_of(answer: bytes) -> str:
    """What the answer, whole or streamed, says of its end; a limit counts, wherever it is told."""
    reasons = [reason for reason in _REASON.findall(answer) if reason in _BY_ITSELF or reason in _AT_A_LIMIT]
    if not reasons:
        return OTHERWISE
    return LENGTH if _AT_A_LIMIT.intersection(reasons) else STOP
