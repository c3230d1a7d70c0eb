"""Server-sent events of a chat stream, rewritten on bytes at event boundaries.

JSON is not parsed on the way: the engine's compact layout puts `"model":"…"` before any generated text, and inside JSON
strings every quote is escaped, so the byte patterns below cannot occur in what the model wrote.
"""

import orjson

from gateway.usage import Usage

DONE = b"data: [DONE]\n\n"
_END = b"\n\n"
_USAGE = b',"usage":{'
_ERROR = b'data: {"error"'
_NO_CHOICES = b'"choices":[]'


class StreamRewriter:
    """Turns the engine's stream into the client's, whatever the chunking.

    The engine model name becomes the name the client asked for, with `system_fingerprint` naming the exact weights;
    usage, which the gateway always asks for, stays only where the client asked for it too. `usage` is the last one
    seen.
    """

    def __init__(
        self, *, engine_model: str, client_model: str, fingerprint: str, include_usage: bool, continuous_usage: bool
    ) -> None:
        self._engine_model = b'"model":' + orjson.dumps(engine_model)
        self._client_model = (
            b'"model":' + orjson.dumps(client_model) + b',"system_fingerprint":' + orjson.dumps(fingerprint)
        )
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._tail = b""
        self._last_usage = b""
        self.saw_done = False
        self.saw_error = False
        self.saw_final_usage = False

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes as they came and return the bytes for the client: whole events, possibly none."""
        data = self._tail + chunk if self._tail else chunk
        *events, self._tail = data.split(_END)
        return b"".join([self._rewrite(event) for event in events])

    @property
    def usage(self) -> Usage | None:
        """The last usage seen, or None when there was none."""
        return Usage.from_openai(orjson.loads(self._last_usage)) if self._last_usage else None

    def _rewrite(self, event: bytes) -> bytes:
        if event == b"data: [DONE]":
            self.saw_done = True
            return DONE
        if event.startswith(_ERROR):
            self.saw_error = True
            return b""
        start = event.rfind(_USAGE)
        if start < 0:
            return self._rename(event) + _END
        end = _object_end(event, start + len(_USAGE) - 1)
        self._last_usage = event[start + len(_USAGE) - 1 : end]
        if _NO_CHOICES in event:
            self.saw_final_usage = True
            return self._rename(event[:end] + b"}") + _END if self._include_usage else b""
        return self._rename(event if self._continuous_usage else event[:start] + event[end:]) + _END

    def _rename(self, event: bytes) -> bytes:
        return event.replace(self._engine_model, self._client_model, 1)


def _object_end(event: bytes, start: int) -> int:
    """Index just past the JSON object that begins at `start`; usage objects hold no strings."""
    end = event.index(b"}", start) + 1
    while event.count(b"{", start, end) != event.count(b"}", start, end):
        end = event.index(b"}", end) + 1
    return end
