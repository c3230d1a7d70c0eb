"""What one request leaves on its record, against the mock engine and against event streams written by hand."""

import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from loadtest.client import ChatClient, RequestRecord
from loadtest.metrics import summarise
from loadtest.mock_engine import Fault, MockSettings, serving
from loadtest.workload import RequestSpec, built_in_prompts


async def asked(url: str, model: str = "base", timeout_s: float = 20.0) -> RequestRecord:
    spec = RequestSpec(0, model, built_in_prompts()[0], max_tokens=64)
    record = RequestRecord(0, model, intended_s=time.perf_counter(), sent_s=time.perf_counter())
    async with ChatClient(url, None, timeout_s, time.perf_counter) as client:
        await client.chat(spec, record)
    return record


def mock_settings(fault: Fault | None = None) -> MockSettings:
    return MockSettings(ttft_ms=5, itl_ms=2, tokens=6, fault=fault)


async def test_an_answer_leaves_its_times_tokens_and_finish_reason() -> None:
    with serving(mock_settings()) as server:
        record = await asked(server.url)
    assert (record.status, record.error, record.finish_reason) == (200, None, "stop")
    assert len(record.chunk_s) == record.completion_tokens == 6
    assert record.sent_s < record.chunk_s[0] <= record.chunk_s[-1] <= record.end_s
    assert record.chunk_s == sorted(record.chunk_s)
    assert record.prompt_tokens == len(built_in_prompts()[0][0]["content"].split())


async def test_only_streaming_with_usage_is_asked_for() -> None:
    with serving(mock_settings()) as server:
        await asked(server.url)
        (body,) = server.engine.received
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert body["max_tokens"] == 64


@pytest.mark.parametrize(
    ("fault", "kind", "chunks"),
    [
        (Fault.DROP, "connection", 0),
        (Fault.DROP_MID_STREAM, "truncated", 3),
        (Fault.ERROR_500, "http_500", 0),
        (Fault.ERROR_MID_STREAM, "stream_error", 3),
    ],
)
async def test_a_failure_is_recorded_by_kind_with_the_chunks_before_it(fault: Fault, kind: str, chunks: int) -> None:
    with serving(mock_settings(fault)) as server:
        record = await asked(server.url)
    assert (record.error, len(record.chunk_s)) == (kind, chunks)
    assert record.message
    assert record.end_s > record.sent_s


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_MID_STREAM])
async def test_silence_is_a_timeout(fault: Fault) -> None:
    with serving(mock_settings(fault)) as server:
        record = await asked(server.url, timeout_s=0.2)
    assert record.error == "timeout"


async def test_an_unknown_model_keeps_the_servers_own_message() -> None:
    with serving(mock_settings()) as server:
        record = await asked(server.url, model="nope")
    assert record.error == "http_404"
    assert record.message == "The model `nope` does not exist. Valid aliases: base."


async def test_a_wrong_usage_is_recorded_as_claimed() -> None:
    with serving(mock_settings(Fault.WRONG_USAGE)) as server:
        record = await asked(server.url)
    assert (len(record.chunk_s), record.completion_tokens) == (6, 7)


TEXT = b'data: {"choices":[{"delta":{"content":"yes"}}]}\n\n'
END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


async def answers(body: bytes, content_type: str = "text/event-stream") -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    yield f"http://{host}:{port}"
    await runner.cleanup()


async def asked_of(body: bytes, content_type: str = "text/event-stream") -> RequestRecord:
    async for url in answers(body, content_type):
        record = await asked(url)
    return record


async def test_text_is_told_from_roles_and_from_tokens_without_text() -> None:
    record = await asked_of(
        b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\r\n\r\n'
        b": a comment\r\n\r\n"
        b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\r\n\r\n'
        b'data:{"choices":[{"delta":{"content":"yes"}}]}\r\n\r\n'
        b'data: {"choices":[{"delta":{"content":""}}]}\r\n\r\n'
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\r\n\r\n'
        b"data: [DONE]\r\n\r\n"
    )
    assert record.error is None
    assert (len(record.chunk_s), record.empty_chunks) == (2, 1)
    assert (record.completion_tokens, record.finish_reason) == (None, "stop")


async def test_usage_that_is_no_count_is_taken_as_missing() -> None:
    record = await asked_of(TEXT + b'data: {"choices":[],"usage":{"completion_tokens":"many"}}\n\n' + END)
    assert (record.error, record.completion_tokens) == (None, None)


@pytest.mark.parametrize(
    ("body", "content_type", "kind"),
    [
        (b"data: {nonsense\n\n", "text/event-stream", "malformed"),
        (b'data: {"choices":[7]}\n\n', "text/event-stream", "malformed"),
        (b"{}", "application/json", "malformed"),
        (b'data: {"choices":[]}\n\n', "text/event-stream", "truncated"),
        (b"", "text/event-stream", "truncated"),
        (END, "text/event-stream", "no_tokens"),
        (TEXT + b"data: [DONE]\n\n", "text/event-stream", "no_finish_reason"),
        (b"data: [DONE]\n\n", "text/event-stream", "no_tokens"),
    ],
)
async def test_a_stream_that_is_not_one_is_a_failure(body: bytes, content_type: str, kind: str) -> None:
    assert (await asked_of(body, content_type)).error == kind


@pytest.mark.parametrize("nothing", [b"null", b'""'])
async def test_an_empty_first_or_last_chunk_is_no_token_and_no_wrong_usage(nothing: bytes) -> None:
    first = b'data: {"choices":[{"delta":{"content":%b}}]}\n\n' % nothing
    last = b'data: {"choices":[{"delta":{"content":%b},"finish_reason":"stop"}]}\n\n' % nothing
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n'
    record = await asked_of(first + TEXT * 2 + last + usage + b"data: [DONE]\n\n")
    assert (record.error, len(record.chunk_s), record.empty_chunks) == (None, 2, 0)
    summary = summarise([record], 1.0)
    assert (summary.usage_below_chunks, summary.usage_above_chunks) == (0, 0)


async def test_what_the_server_had_cached_is_recorded() -> None:
    usage = b'"usage":{"prompt_tokens":9,"completion_tokens":1,"prompt_tokens_details":%b}'
    told = await asked_of(TEXT + b'data: {"choices":[],' + usage % b'{"cached_tokens":8}' + b"}\n\n" + END)
    silent = await asked_of(TEXT + b'data: {"choices":[],' + usage % b"null" + b"}\n\n" + END)
    assert (told.cached_tokens, silent.cached_tokens) == (8, None)
    assert summarise([told, silent], 1.0).cached_tokens == 8
    assert summarise([silent], 1.0).cached_tokens is None


async def test_nobody_listening_is_a_connection_failure(unused_tcp_port: int) -> None:
    record = await asked(f"http://127.0.0.1:{unused_tcp_port}")
    assert (record.error, record.status) == ("connection", None)
