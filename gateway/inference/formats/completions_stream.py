"""Rewrite the event stream of chat and legacy completions, on bytes and at event boundaries.

JSON is not parsed on the way: the engine's compact layout puts `"model":"…"` before any generated text, and inside JSON
strings every quote is escaped, so the byte patterns below cannot occur in what the model wrote.
"""

import orjson

from gateway.core import Usage, UsageSource
from gateway.errors import EngineFailedError
from gateway.inference.formats.base import Names
from gateway.inference.formats.sse import MOST_EVENT_BYTES, LineFeeds

DONE = b"data: [DONE]\n\n"
_END = b"\n\n"
_USAGE = b',"usage":{'
_ONLY_USAGE = b'],"usage":{'  # behind the choices, and nothing else there
_ERROR = b'data: {"error"'
_CHOICES = b'"choices":['
_FINISHED = b'"finish_reason":"'
_INDEX = b'{"index":'
_FINGERPRINT = b',"system_fingerprint":"'
_AFTER_TEXT_BYTES = 512  # what follows the choices of an event is shorter than this


class CompletionsStream:
    """Rewrite the engine's stream into the client's.

    The engine model name becomes the name the client asked for, with `system_fingerprint` naming the exact weights;
    usage, which the gateway always asks for, stays only where the client asked for it too. Running counts are per
    choice; there are `choices` in all, `per_prompt` for each prompt. The stream is whole once each of them has said why
    it finished.
    """

    def __init__(
        self, names: Names, *, include_usage: bool, continuous_usage: bool, per_prompt: int = 1, choices: int = 1
    ) -> None:
        self._engine_model = b'"model":' + orjson.dumps(names.engine_model)
        self._client_model = (
            b'"model":' + orjson.dumps(names.client_model) + b',"system_fingerprint":' + orjson.dumps(names.fingerprint)
        )
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._per_prompt = per_prompt
        self._choices = choices
        self._has_many = choices > 1
        self._is_plain = not self._has_many and not continuous_usage
        self._engine_head, self._client_head = b"\0", b""
        self._tail = b""
        self._final_usage = b""
        self._running_usage: dict[int, bytes] = {}
        self._finished: set[int] = set()
        self._lines = LineFeeds()
        self._is_over = False
        self.saw_end = False
        self.failure: EngineFailedError | None = None
        self.failure_event = b""

    def feed(self, chunk: bytes) -> bytes:
        """Rewrite a chunk; returns whole events for the client, possibly none."""
        if b"\r" in chunk or self._lines.is_split:
            chunk = self._lines.normal(chunk)
        if not self._tail and 0 <= chunk.find(_END) == len(chunk) - len(_END):  # one event, as a paced stream has it
            return self._rewrite(chunk[: -len(_END)])
        data = self._tail + chunk if self._tail else chunk
        *events, self._tail = data.split(_END)
        whole = b"".join([self._rewrite(event) for event in events])
        if len(self._tail) > MOST_EVENT_BYTES:
            self._tail = self._fail("The engine sent an event that is too large.")
        return whole

    def count(self) -> tuple[Usage, UsageSource]:
        """Return the final usage; for a stream that broke off, the sum of the last counts of its choices."""
        if self._final_usage:
            usage = _usage(self._final_usage)
            return usage, usage.evidence
        if not self._running_usage:
            return Usage(), UsageSource.NONE
        counts = {index: _usage(raw) for index, raw in self._running_usage.items()}
        by_prompt = {index // self._per_prompt: usage for index, usage in counts.items()}.values()
        completion_tokens = sum(usage.completion_tokens for usage in counts.values())
        prompt_tokens, cached_tokens = (
            sum(getattr(u, k) for u in by_prompt) for k in ("prompt_tokens", "cached_tokens")
        )
        is_sound = all(usage.is_sound for usage in counts.values())
        evidence = UsageSource.LAST_CONTINUOUS if is_sound else UsageSource.ESTIMATED
        return Usage(prompt_tokens, completion_tokens, cached_tokens, is_sound), evidence

    def _rewrite(self, event: bytes) -> bytes:
        if self._is_plain and not self._is_over and event.startswith(self._engine_head) and event.endswith(b"}}"):
            start, head = event.rfind(_ONLY_USAGE), len(self._engine_head)
            if start > head and event.find(b"},", start) < 0:  # nearly every event of nearly every stream
                self._running_usage[0] = event[start + len(_ONLY_USAGE) - 1 : -1]
                if event.find(_FINISHED, head, start) > 0:
                    self._finished.add(0)
                return self._client_head + event[head : start + 1] + b"}\n\n"
        if self._is_over:
            return b""  # the engine ends a failed stream with [DONE] too, which clients take for success
        try:
            return self._rewrite_any(event)
        except ValueError:
            return self._fail("The engine sent an event of an unexpected format.")

    def _rewrite_any(self, event: bytes) -> bytes:
        if event == b"data: [DONE]":
            return self._end()
        if not event.startswith(self._engine_head) and not self._learn_head(event):
            if event.startswith(_ERROR):
                self.failure_event = event
                return self._fail("The engine failed on this request; its log has the details.")
            return event + _END
        rest = event[len(self._engine_head) :]
        is_last = rest.startswith(b"]")  # no choices: the count of the whole answer
        index = _index(rest) if self._has_many and not is_last else 0
        if _FINISHED in rest:
            self._finished.add(index)
        start = rest.rfind(_USAGE)
        if start >= 0:
            start += len(_USAGE) - 1
            end = _object_end(rest, start)
            if is_last:
                self._final_usage = rest[start:end]
                if not self._include_usage:
                    return b""
            else:
                self._running_usage[index] = rest[start:end]
                if not self._continuous_usage:
                    rest = rest[: start - len(_USAGE) + 1] + rest[end:]
        return self._client_head + _without_fingerprint(rest) + _END

    def _end(self) -> bytes:
        if len(self._finished) < self._choices:
            return self._fail("The engine's answer ended without a finish reason.")
        self.saw_end = self._is_over = True
        return DONE

    def _fail(self, reason: str) -> bytes:
        self.failure = EngineFailedError(reason)
        self._is_over = True
        return b""

    def _learn_head(self, event: bytes) -> bool:
        """Learn how all events of this stream begin, up to their choices; False when this event has no choices."""
        name = event.find(self._engine_model)
        end = event.find(_CHOICES, name) + len(_CHOICES)
        if name < 0 or end < len(_CHOICES):
            return False
        self._engine_head = event[:end]
        self._client_head = self._engine_head.replace(self._engine_model, self._client_model, 1)
        return True


def _usage(raw: bytes) -> Usage:
    try:
        return Usage.from_openai(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return Usage(is_sound=False)


def _without_fingerprint(rest: bytes) -> bytes:
    start = rest.rfind(_FINGERPRINT, max(0, len(rest) - _AFTER_TEXT_BYTES))
    return rest if start < 0 else rest[:start] + rest[rest.index(b'"', start + len(_FINGERPRINT)) + 1 :]


def _index(rest: bytes) -> int:
    start = rest.find(_INDEX) + len(_INDEX)
    return int(rest[start : rest.index(b",", start)])


def _object_end(data: bytes, start: int) -> int:
    """Return the index just past the JSON object that begins at `start`; usage objects hold no strings."""
    end = data.index(b"}", start) + 1
    while data.count(b"{", start, end) != data.count(b"}", start, end):
        end = data.index(b"}", end) + 1
    return end
