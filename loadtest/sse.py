"""Server-sent events of a chat stream, read as bytes: what each tells is written on the request's record.

An event is decoded as JSON unless it lies in the middle of a long read and byte counts alone prove that it is one plain
text chunk: quotes inside a JSON text are escaped, so `"delta":{"content":"` can only be structure. What the counts do
not prove is decoded, so a server that writes its JSON differently costs time and changes nothing.
"""

from typing import Any

import orjson

from loadtest.http1 import FailureError
from loadtest.records import RequestRecord

TEXT_FIELDS = ("content", "reasoning", "reasoning_content", "tool_calls")
LONG_READ_BYTES = 2048
TAIL_EVENTS = 3
"""Events at the end of a read that are always decoded: finish reason, usage and [DONE] are there."""
MOST_BYTES_PER_LINE = 16 << 20


class EventReader:
    """Parses the events of one response and writes them on its record."""

    def __init__(self, record: RequestRecord) -> None:
        self._record = record
        self._rest = b""
        self.done = False
        """Whether `[DONE]` has come."""

    def feed(self, data: bytes, now_s: float) -> None:
        """Parse bytes read at `now_s`; raises FailureError for malformed data and error events."""
        if self._rest:
            data = self._rest + data
        end = data.rfind(b"\n") + 1
        self._rest = data[end:]
        if len(self._rest) > MOST_BYTES_PER_LINE:
            raise FailureError("malformed", "a line of the stream does not end")
        block = data[:end] if self._rest else data
        if len(block) > LONG_READ_BYTES and not self.done:
            self._feed_long(block, now_s)
        else:
            self._decode(block, now_s)

    def _feed_long(self, block: bytes, now_s: float) -> None:
        start = block.find(b"\n\n") + 2
        end = len(block)
        for _ in range(TAIL_EVENTS + 1):
            end = block.rfind(b"\n\n", 0, end)
        middle = block[start : end + 2] if start > 1 and end + 2 > start else b""
        chunks = text_chunks(middle)
        if not chunks:
            self._decode(block, now_s)
            return
        self._decode(block[:start], now_s)
        self._record.chunk_s.extend([now_s] * chunks)
        self._decode(block[end + 2 :], now_s)

    def _decode(self, block: bytes, now_s: float) -> None:
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                self.done = self.done or payload == b"[DONE]"
                if not self.done:
                    _take(self._record, payload, now_s)


def text_chunks(block: bytes) -> int:
    """Return the number of events when all are proven to be plain text chunks; 0 when not."""
    chunks = block.count(b'"delta":{"content":"')
    proven = (
        block.startswith(b"data: {")
        and block.count(b"\n\ndata: {") == chunks - 1
        and block.count(b"\n") == 2 * chunks
        and block.count(b'"finish_reason":null') == chunks
        and b'"delta":{"content":""' not in block
        and block.count(b"}\n\n") == chunks
    )
    return chunks if proven else 0


def error_message(body: bytes) -> str:
    """Return the message of an error body, or the start of the body."""
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def _take(record: RequestRecord, payload: bytes, now_s: float) -> None:
    event = _object(payload)
    if "error" in event:
        raise FailureError("stream_error", error_message(payload))
    usage = event.get("usage")
    if isinstance(usage, dict):
        record.prompt_tokens = _count(usage, "prompt_tokens")
        record.completion_tokens = _count(usage, "completion_tokens")
        details = usage.get("prompt_tokens_details")
        record.cached_tokens = _count(details, "cached_tokens") if isinstance(details, dict) else None
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if any(delta.get(name) for name in TEXT_FIELDS):
            record.chunk_s.append(now_s)
        elif delta.get("content") == "" and record.chunk_s and not choice.get("finish_reason"):
            # Before the first text and with the finish reason it is only how the server opens or closes an answer.
            record.empty_chunks += 1
        record.finish_reason = choice.get("finish_reason") or record.finish_reason


def _object(payload: bytes) -> dict[str, Any]:
    try:
        event: object = orjson.loads(payload)
    except orjson.JSONDecodeError:
        event = None
    if isinstance(event, dict):
        choices = event.get("choices") or []
        if isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):
            return event
    raise FailureError("malformed", f"an event is not a chat completion chunk: {payload[:80]!r}")


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and value >= 0 else None
