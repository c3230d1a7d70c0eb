"""The client of one request: every response has a head, however sending was cut short."""

import asyncio
from typing import Any

import pytest

from gateway.core import RequestContext
from gateway.errors import EngineTimeoutError
from gateway.inference.endpoint import HttpClient
from gateway.inference.formats import APIS
from gateway.server.cycle import AsgiCycle
from tests.waiting import eventually_async


class Slow:
    """A server whose client does not read until `reads` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.sent: list[Any] = []

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.sent.append(message)

    async def receive(self) -> Any:
        await asyncio.Event().wait()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_after_a_head_that_was_never_sent_has_a_head_of_its_own(stream: bool) -> None:
    server = Slow()
    context = RequestContext("r", None, APIS["/v1/chat/completions"], {})
    client = HttpClient(context, AsgiCycle(server.receive, server.send), server.send, keep_alive_s=0)
    answer = client.send_events(b"data: 1\n\n") if stream else client.send_whole(b"{}")
    sending = asyncio.create_task(answer)
    await asyncio.sleep(0)
    sending.cancel()  # as a time limit does
    await asyncio.wait([sending])
    server.reads.set()
    await client.send_error(EngineTimeoutError("late", code="engine_total_timeout"))
    head, body = server.sent
    assert (head["type"], head["status"], body.get("more_body", False)) == ("http.response.start", 504, False)
    assert b"engine_total_timeout" in body["body"]


async def test_a_stream_kept_alive_while_its_client_does_not_read_ends_with_a_head() -> None:
    server = Slow()
    context = RequestContext("r", None, APIS["/v1/chat/completions"], {})
    client = HttpClient(context, AsgiCycle(server.receive, server.send), server.send, keep_alive_s=0.001)
    client.watch(lambda: None, is_stream=True)
    assert await eventually_async(lambda: client._beat is not None)
    await asyncio.sleep(0)
    assert client._beat is not None
    client.unwatch()
    await asyncio.wait([client._beat])
    server.reads.set()
    await client.send_error(EngineTimeoutError("late", code="engine_total_timeout"))
    assert [message["type"] for message in server.sent] == ["http.response.start", "http.response.body"]
