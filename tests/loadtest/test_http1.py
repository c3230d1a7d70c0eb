"""HTTP answers in all their shapes, cut anywhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from loadtest.client import ChatClient
from loadtest.http1 import MOST_HEAD_BYTES, Connection, FailureError
from loadtest.records import RequestRecord
from loadtest.workload import RequestSpec, built_in_prompts

EVENTS = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
TYPE = b"Content-Type: text/event-stream; charset=utf-8\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\n" + TYPE + b"Transfer-Encoding: chunked\r\n\r\n"
IN_CHUNKS = CHUNKED + b"5\r\n" + EVENTS[:5] + b"\r\n%x;ext=1\r\n" % (len(EVENTS) - 5) + EVENTS[5:] + b"\r\n"


class Script:
    """A server that answers the n-th request of all with the n-th script: pieces, and whether to hang up then."""

    def __init__(self, *answers: tuple[list[bytes], bool]) -> None:
        self.answers = list(answers)
        self.connections = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                pieces, hang_up = self.answers.pop(0)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if hang_up:
                    break
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def asking(script: Script) -> AsyncIterator[ChatClient]:
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with ChatClient(f"http://{host}:{port}/prefix", "tt-k", 30, asyncio.get_running_loop().time) as client:
        yield client
    server.close()
    await server.wait_closed()


async def ask(client: ChatClient) -> RequestRecord:
    record = RequestRecord(0, "base", 0.0, 0.0)
    await client.chat(RequestSpec(0, "base", built_in_prompts()[0], 4), record)
    return record


@pytest.mark.parametrize(
    ("answer", "hang_up"),
    [
        (IN_CHUNKS + b"0\r\n\r\n", False),
        (IN_CHUNKS + b"0\r\nX-Trailer: 1\r\n\r\n", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + IN_CHUNKS + b"0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\n" + TYPE + b"CONTENT-LENGTH: %d\r\n\r\n" % len(EVENTS) + EVENTS, False),
        (b"HTTP/1.0 200 OK\r\n" + TYPE + b"\r\n" + EVENTS, True),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_body_is_read_to_its_end_however_it_is_sent(answer: bytes, hang_up: bool, size: int) -> None:
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
    script = Script((pieces, hang_up), (pieces, hang_up))
    async with asking(script) as client:
        first, second = await ask(client), await ask(client)
    assert (first.error, len(first.chunk_s)) == (second.error, len(second.chunk_s)) == (None, 1)
    assert script.connections == (2 if hang_up else 1)


async def test_the_request_has_path_host_and_key() -> None:
    script = Script(([IN_CHUNKS + b"0\r\n\r\n"], False))
    async with asking(script) as client:
        await ask(client)
    assert script.requests[0].startswith(b"POST /prefix/v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer tt-k\r\n" in script.requests[0]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", "connection"),
        (b"HTTP/1.1 200", "connection"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "malformed"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "malformed"),
        (b"HTTP/1.1 abc\r\n\r\n", "malformed"),
        (IN_CHUNKS, "truncated"),
        (CHUNKED + b"zz\r\n", "malformed"),
        (CHUNKED + b"-5\r\n", "malformed"),
        (b"HTTP/1.1 204 No Content\r\n" + TYPE + b"\r\n", "http_204"),
        (b'HTTP/1.1 429 Slow\r\nContent-Length: 29\r\n\r\n{"error":{"message":"later!"}}', "http_429"),
    ],
)
async def test_what_is_no_answer_is_a_failure_by_kind(answer: bytes, kind: str) -> None:
    async with asking(Script(([answer], True))) as client:
        assert (await ask(client)).error == kind


async def test_after_a_failed_answer_the_connection_is_not_used_again() -> None:
    good = [IN_CHUNKS + b"0\r\n\r\n"]
    script = Script(([CHUNKED + b"1a\r\ndata: {nonsense\n\n"], False), (good, False))
    async with asking(script) as client:
        assert (await ask(client)).error == "malformed"
        assert (await ask(client)).error is None
    assert script.connections == 2


async def test_after_a_refusal_the_connection_is_used_again() -> None:
    refusal = [b"HTTP/1.1 429 Slow\r\nContent-Length: 2\r\n\r\n{}"]
    script = Script((refusal, False), (refusal, False))
    async with asking(script) as client:
        assert [(await ask(client)).error for _ in range(2)] == ["http_429", "http_429"]
    assert script.connections == 1


async def test_bytes_behind_the_body_are_not_part_of_it_and_end_the_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + TYPE + b"Content-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS
    script = Script(([answer + b"data: nonsense"], False), ([answer + answer], False), ([answer], False))
    async with asking(script) as client:
        records = [await ask(client) for _ in range(3)]
    assert [(record.error, len(record.chunk_s)) for record in records] == [(None, 1)] * 3
    assert script.connections == 3


async def test_a_head_without_an_end_is_refused() -> None:
    async with asking(Script(([b"HTTP/1.1 200 OK\r\nX: " + b"y" * MOST_HEAD_BYTES], False))) as client:
        record = await ask(client)
    assert (record.error, record.message) == ("malformed", "the answer is not HTTP: its head does not end")


class Collected:
    """A reader that keeps everything it is given."""

    def __init__(self) -> None:
        self.status = 0
        self.reads: list[bytes] = []

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status

    def on_data(self, data: bytes) -> None:
        if data == b"bad":
            raise FailureError("malformed", "bad data")
        self.reads.append(data)


class Pipe(asyncio.Transport):
    """A transport whose other end is the test."""

    is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Accept the request."""

    def abort(self) -> None:
        self.is_aborted = True


def connected() -> tuple[Connection, Pipe]:
    connection, pipe = Connection(), Pipe()
    connection.connection_made(pipe)
    return connection, pipe


async def test_an_answer_is_whole_only_with_its_last_byte() -> None:
    connection, _ = connected()
    reader = Collected()
    answered = connection.send(b"", reader)
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc":
        connection.data_received(bytes([byte]))
    assert not answered.done()
    connection.data_received(b"d")
    assert answered.result() > 0
    assert (reader.status, b"".join(reader.reads)) == (200, b"abcd")


async def test_the_chunks_of_one_read_are_handed_over_in_one_piece() -> None:
    connection, _ = connected()
    reader = Collected()
    answered = connection.send(b"", reader)
    connection.data_received(CHUNKED + b"3\r\ndat\r\nA;name=value\r\na: [DONE]\n\r\n1")
    connection.data_received(b"\r\n!\r\n0\r\n\r\n")
    assert (reader.reads, answered.done()) == ([b"data: [DONE]\n", b"!"], True)


async def test_a_failure_of_the_reader_ends_the_answer_and_the_connection() -> None:
    connection, pipe = connected()
    answered = connection.send(b"", Collected())
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbad")
    with pytest.raises(FailureError, match="bad data"):
        answered.result()
    assert (connection.open, pipe.is_aborted) == (False, True)


async def test_an_answer_that_its_sender_gave_up_ends_the_connection() -> None:
    connection, pipe = connected()
    reader = Collected()
    connection.send(b"", reader).cancel()
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
    assert (reader.reads, pipe.is_aborted) == ([], True)


async def test_a_closed_connection_takes_no_request() -> None:
    connection, _ = connected()
    connection.close()
    answered = connection.send(b"", Collected())
    with pytest.raises(ConnectionResetError):
        answered.result()
