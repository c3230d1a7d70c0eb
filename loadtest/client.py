"""One streamed chat request and the raw facts about it: times on one clock, chunks seen, usage claimed, error met."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import orjson

from loadtest.arrivals import Clock
from loadtest.workload import RequestSpec

INTERRUPTED = "interrupted"
"""The error of a request that was still running when the test was stopped: neither answered nor failed."""
QUESTION_TIMEOUT = aiohttp.ClientTimeout(total=10)
TEXT_FIELDS = ("content", "reasoning", "reasoning_content", "tool_calls")


@dataclass(slots=True)
class RequestRecord:
    """What happened to one request; times are seconds from the start of the test."""

    index: int
    model: str
    intended_s: float
    """When the request was meant to leave; latencies are counted from here."""
    sent_s: float
    end_s: float = 0.0
    status: int | None = None
    chunk_s: list[float] = field(default_factory=list)
    """Arrival of every chunk with text; chunks that arrived in one read share a time."""
    empty_chunks: int = 0
    """Chunks that stand for a token without visible text, such as an end-of-text token."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """As the server's usage says; None when it said nothing."""
    finish_reason: str | None = None
    error: str | None = None
    """Kind of failure: `connection`, `timeout`, `truncated`, `malformed`, `stream_error`, `http_<status>`."""
    message: str | None = None


class ChatClient:
    """Sends chat requests to one OpenAI-compatible server, as many at a time as asked for."""

    def __init__(self, base_url: str, key: str | None, timeout_s: float, clock: Clock) -> None:
        self._url = f"{base_url}/v1/chat/completions"
        self._clock = clock
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, url: str) -> tuple[int, Any]:
        """Status and decoded JSON (None when it is none) of a GET, which must not take long."""
        async with self._session.get(url, timeout=QUESTION_TIMEOUT) as response:
            body = await response.read()
        try:
            return response.status, orjson.loads(body)
        except orjson.JSONDecodeError:
            return response.status, None

    async def chat(self, spec: RequestSpec, record: RequestRecord) -> None:
        """Send one request and fill its record; only being cancelled is raised, and is on the record too."""
        try:
            async with _failures_on(record):
                await self._stream(spec, record)
        finally:
            record.end_s = self._clock()

    async def _stream(self, spec: RequestSpec, record: RequestRecord) -> None:
        body = {
            "model": spec.model,
            "messages": spec.messages,
            "max_tokens": spec.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._url, data=orjson.dumps(body), headers=headers) as response:
            record.status = response.status
            if response.status != 200:
                raise _FailureError(f"http_{response.status}", _error_message(await response.read()))
            if response.content_type != "text/event-stream":
                raise _FailureError("malformed", f"the answer is {response.content_type}, not an event stream")
            await self._read_events(response.content, record)

    async def _read_events(self, content: aiohttp.StreamReader, record: RequestRecord) -> None:
        done = False
        rest = b""
        async for data in content.iter_any():
            now_s = self._clock()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    payload = line[5:].strip()
                    done = done or payload == b"[DONE]"
                    if not done:
                        _take_event(record, payload, now_s)
        if not done:
            raise _FailureError("truncated", "the stream ended without [DONE]")


class _FailureError(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@asynccontextmanager
async def _failures_on(record: RequestRecord) -> AsyncIterator[None]:
    try:
        yield
    except _FailureError as failure:
        record.error, record.message = failure.kind, str(failure)
    except TimeoutError:
        record.error, record.message = "timeout", "no complete answer in time"
    except aiohttp.ClientError as error:
        record.error = "connection" if record.status is None else "truncated"
        record.message = str(error)
    except asyncio.CancelledError:
        record.error = INTERRUPTED
        raise


def _take_event(record: RequestRecord, payload: bytes, now_s: float) -> None:
    event = _object(payload)
    if "error" in event:
        raise _FailureError("stream_error", _error_message(payload))
    usage = event.get("usage")
    if isinstance(usage, dict):
        record.prompt_tokens = _count(usage, "prompt_tokens")
        record.completion_tokens = _count(usage, "completion_tokens")
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if any(delta.get(name) for name in TEXT_FIELDS):
            record.chunk_s.append(now_s)
        elif "content" in delta and "role" not in delta:
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
    raise _FailureError("malformed", f"an event is not a chat completion chunk: {payload[:80]!r}")


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and value >= 0 else None


def _error_message(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
