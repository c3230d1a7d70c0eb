"""A bare HTTP/1.1 connection: the least work that still checks an answer, so that the client is not what is measured.

The mock engine's words are `w0 w1 w2 …`; an answer is right when all of them arrived, and `[DONE]` after a stream.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import cast

import orjson

FIRST_WORD = b'"w0 '
DONE = b"data: [DONE]"
TEXT_EVENT = b'"content":"w'
LAST_CHUNK = b"0\r\n\r\n"


@dataclass(slots=True)
class BenchAnswer:
    """One answer as it arrived; times are those of the monotonic clock."""

    status: int
    body: bytes
    chunked: bool
    first_text_s: float | None
    end_s: float


class BenchConnection(asyncio.Protocol):
    """A kept-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[BenchAnswer] | None = None
        self._buffer = bytearray()
        self._body_at = 0
        self._status = 0
        self._length: int | None = None
        self._first_text_s: float | None = None

    async def ask(self, request: bytes) -> BenchAnswer:
        """Send a whole request and wait for its answer; raises ConnectionError when the connection ends before."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("closed")
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        """Hang up."""
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Add what arrived; deliver the answer when it is whole."""
        self._buffer += data
        if not self._body_at and not self._read_head():
            return
        if self._first_text_s is None and self._buffer.find(FIRST_WORD, self._body_at) >= 0:
            self._first_text_s = time.perf_counter()
        if self._is_whole():
            self._deliver()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits for an answer."""
        if self._answered and not self._answered.done():
            self._answered.set_exception(ConnectionResetError("cut off"))

    def _begin(self) -> None:
        self._buffer = bytearray()
        self._body_at = 0
        self._status = 0
        self._length = None
        self._first_text_s = None

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end]).lower()
        self._status, self._body_at = int(head[9:12]), end + 4
        _, declared, rest = head.partition(b"\r\ncontent-length:")
        self._length = int(rest.partition(b"\r\n")[0]) if declared else None
        return True

    def _is_whole(self) -> bool:
        if self._length is None:
            return self._buffer.endswith(LAST_CHUNK)
        return len(self._buffer) - self._body_at >= self._length

    def _deliver(self) -> None:
        body = bytes(self._buffer[self._body_at :])
        answer = BenchAnswer(self._status, body, self._length is None, self._first_text_s, time.perf_counter())
        self._begin()
        if self._answered and not self._answered.done():
            self._answered.set_result(answer)


def joined(body: bytes) -> bytes:
    """The content of a chunked body."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].partition(b";")[0], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 4 + size


def problem(answer: BenchAnswer, words: int, *, stream: bool) -> str | None:
    """Why this is not the answer that was asked for; None when it is."""
    if answer.status != 200:
        return f"status {answer.status}"
    body = joined(answer.body) if answer.chunked else answer.body
    if not stream:
        try:
            text = orjson.loads(body)["choices"][0]["message"]["content"]
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError):
            return "not a chat completion"
        return None if text == "".join(f"w{index} " for index in range(words)) else "wrong text"
    if DONE not in body:
        return "no [DONE]"
    found = body.count(TEXT_EVENT)
    return None if found == words else f"{found} chunks instead of {words}"
