"""Rewrite server-sent events: line ends, and the named events of the Responses and Messages APIs.

Only the few events that carry a model name or usage are parsed. Text deltas pass as bytes and are counted, because
these APIs report their token count only at the end.
"""

from abc import ABC, abstractmethod
from typing import Any

import orjson

from gateway.core import Usage, UsageSource
from gateway.errors import EngineFailedError

MOST_EVENT_BYTES = 16 << 20
"""More than any event takes. An event without end would be kept, and searched again with each chunk."""


class LineFeeds:
    """Normalise line ends (CR, LF or both) to LF, whatever the chunking. In JSON a CR is escaped, so none is text."""

    __slots__ = ("is_split",)

    def __init__(self) -> None:
        self.is_split = False
        """The last chunk ended with a CR, whose LF may come next."""

    def normal(self, chunk: bytes) -> bytes:
        """Return a chunk with line feeds only; may be empty."""
        if self.is_split and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self.is_split = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


_END = b"\n\n"
_DATA = b"\ndata: "
_FAILED = "The engine failed on this request; its log has the details."


class NamedEvents(ABC):
    """Rewrite one stream of named events (`event: NAME`, `data: {…}`); subclasses know what each event means."""

    delta_suffix: bytes
    """How the names of events with generated text end."""

    def __init__(self) -> None:
        self._tail = b""
        self._lines = LineFeeds()
        self._deltas = 0
        self._usage: Usage | None = None
        self.prompt_tokens = 0
        self.saw_end = False
        self.failure: EngineFailedError | None = None
        self.failure_event = b""

    def feed(self, chunk: bytes) -> bytes:
        """Rewrite a chunk; returns whole events for the client, possibly none."""
        if b"\r" in chunk or self._lines.is_split:
            chunk = self._lines.normal(chunk)
        data = self._tail + chunk if self._tail else chunk
        *events, self._tail = data.split(_END)
        whole = b"".join([self._rewrite(event) for event in events if event])
        if len(self._tail) > MOST_EVENT_BYTES:
            self._tail = b""
            self.fail("The engine sent an event that is too large.")
        return whole

    def count(self) -> tuple[Usage, UsageSource]:
        """Return the final usage; for a stream that broke off, one token for each text delta."""
        if self._usage is not None:
            return self._usage, self._usage.evidence
        if not self._deltas and not self.prompt_tokens:
            return Usage(), UsageSource.NONE
        return Usage(self.prompt_tokens, self._deltas), UsageSource.ESTIMATED

    def _rewrite(self, event: bytes) -> bytes:
        if self.saw_end or self.failure is not None:
            return b""
        head, _, data = event.partition(_DATA)
        name = head.removeprefix(b"event: ")
        if name.endswith(self.delta_suffix):
            self._deltas += 1
            return event + _END
        if name == b"error" or event.startswith(b'data: {"error"'):
            self.failure_event = event
            self.fail(_FAILED)
            return b""
        if name in self.rewritten:
            try:
                document = orjson.loads(data)
                event = b"event: " + self.rewrite(name, document) + _DATA + orjson.dumps(document)
            except (ValueError, KeyError, TypeError, AttributeError):
                self.fail("The engine sent an event of an unexpected format.")
            return b"" if self.failure is not None else event + _END
        if name == self.last:
            self.end()
        return b"" if self.failure is not None else event + _END

    rewritten: frozenset[bytes]
    """Names of the events that `rewrite` must see."""
    last: bytes | None = None
    """Name of the event that ends the stream, where that is none of those."""

    @abstractmethod
    def rewrite(self, name: bytes, document: dict[str, Any]) -> bytes:
        """Rewrite an event's document in place and read its usage; returns the event's name."""

    def end(self) -> None:
        """Note that the stream is complete."""
        self.saw_end = True

    def fail(self, reason: str) -> None:
        """Note that the stream has failed; none of its events is relayed from here on."""
        self.failure = EngineFailedError(reason)

    def settle(self, usage: Usage) -> None:
        """Note the final usage."""
        self._usage = usage
