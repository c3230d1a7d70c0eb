"""The event stream of chat and legacy completions, rewritten on bytes at event boundaries.

JSON is not parsed on the way: the engine's compact layout puts `"model":"…"` before any generated text, and inside JSON
strings every quote is escaped, so the byte patterns below cannot occur in what the model wrote.
"""

import orjson

from gateway.apis.api import Names
from gateway.usage import Evidence, Usage

DONE = b"data: [DONE]\n\n"
_END = b"\n\n"
_USAGE = b',"usage":{'
_ERROR = b'data: {"error"'
_NO_CHOICES = b'"choices":[]'
_INDEX = b'"choices":[{"index":'
_FINGERPRINT = b',"system_fingerprint":"'


class CompletionsStream:
    """Turns the engine's stream into the client's.

    The engine model name becomes the name the client asked for, with `system_fingerprint` naming the exact weights;
    usage, which the gateway always asks for, stays only where the client asked for it too. Running counts are per
    choice, and there are `per_prompt` choices for each of `prompts`.
    """

    def __init__(
        self, names: Names, *, include_usage: bool, continuous_usage: bool, per_prompt: int = 1, prompts: int = 1
    ) -> None:
        self._engine_model = b'"model":' + orjson.dumps(names.engine_model)
        self._client_model = (
            b'"model":' + orjson.dumps(names.client_model) + b',"system_fingerprint":' + orjson.dumps(names.fingerprint)
        )
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._per_prompt = per_prompt
        self._has_many = per_prompt * prompts > 1
        self._tail = b""
        self._final_usage = b""
        self._running_usage: dict[int, bytes] = {}
        self.saw_end = False
        self.saw_error = False

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes as they came and return the bytes for the client: whole events, possibly none."""
        data = self._tail + chunk if self._tail else chunk
        *events, self._tail = data.split(_END)
        return b"".join([self._rewrite(event) for event in events])

    def count(self) -> tuple[Usage, Evidence]:
        """The final usage; or, when the stream broke off, the sum of the last counts of its choices."""
        if self._final_usage:
            return Usage.from_openai(orjson.loads(self._final_usage)), Evidence.EXACT
        if not self._running_usage:
            return Usage(), Evidence.NONE
        counts = {index: Usage.from_openai(orjson.loads(raw)) for index, raw in self._running_usage.items()}
        by_prompt = {index // self._per_prompt: usage.prompt_tokens for index, usage in counts.items()}
        completion_tokens = sum(usage.completion_tokens for usage in counts.values())
        return Usage(sum(by_prompt.values()), completion_tokens), Evidence.LAST_CONTINUOUS

    def _rewrite(self, event: bytes) -> bytes:
        if self.saw_error:
            return b""  # the engine ends a failed stream with [DONE] too, which clients take for success
        if event == b"data: [DONE]":
            self.saw_end = True
            return DONE
        if event.startswith(_ERROR):
            self.saw_error = True
            return b""
        start = event.rfind(_USAGE)
        if start < 0:
            return self._rename(event) + _END
        end = _object_end(event, start + len(_USAGE) - 1)
        usage = event[start + len(_USAGE) - 1 : end]
        if _NO_CHOICES in event:
            self._final_usage = usage
            return self._rename(event) + _END if self._include_usage else b""
        self._running_usage[_index(event) if self._has_many else 0] = usage
        return self._rename(event if self._continuous_usage else event[:start] + event[end:]) + _END

    def _rename(self, event: bytes) -> bytes:
        theirs = event.rfind(_FINGERPRINT)
        if theirs >= 0:
            event = event[:theirs] + event[event.index(b'"', theirs + len(_FINGERPRINT)) + 1 :]
        return event.replace(self._engine_model, self._client_model, 1)


def _index(event: bytes) -> int:
    start = event.find(_INDEX) + len(_INDEX)
    return int(event[start : event.index(b",", start)])


def _object_end(event: bytes, start: int) -> int:
    """Index just past the JSON object that begins at `start`; usage objects hold no strings."""
    end = event.index(b"}", start) + 1
    while event.count(b"{", start, end) != event.count(b"}", start, end):
        end = event.index(b"}", end) + 1
    return end
