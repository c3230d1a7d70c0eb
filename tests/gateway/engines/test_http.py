"""HTTP towards an engine, against servers that answer by the byte: pieces, reuse, silence, nonsense and early ends."""

import asyncio
import socket

import pytest

from gateway.engines.http import ConnectionPool, EngineConnection
from gateway.errors import EngineBrokeOffError, EngineTimeoutError, EngineUnreachableError
from tests.gateway.engines.byte_servers import Server, pool_to
from tests.waiting import eventually_async


async def chunks_of(connection: EngineConnection) -> list[bytes]:
    """The rest of the body, as it came."""
    chunks = []
    while chunk := await connection.next_chunk():
        chunks.append(chunk)
    return chunks


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none \r\n4\r\ntwo \r\n0\r\n\r\n"
SIZED = b"HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nhello"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("answer", "status", "body"), [(CHUNKED, 200, b"one two "), (SIZED, 201, b"hello")])
async def test_an_answer_in_any_pieces_is_the_same_answer(size: int, answer: bytes, status: int, body: bytes) -> None:
    server = Server(*(answer[start : start + size] for start in range(0, len(answer), size)))
    async with pool_to(server) as pool:
        async with pool.request("POST", "/x", b"{}", {"traceparent": "00-1"}) as connection:
            assert connection.status == status
            assert b"".join(await chunks_of(connection)) == body
        async with pool.request("GET", "/y") as connection:
            assert await connection.read() == body
    assert server.connections == 1
    assert server.requests[0].startswith(b"POST /engine/x HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\ntraceparent: 00-1\r\n" in server.requests[0]
    assert server.requests[0].endswith(b"\r\n\r\n{}")


async def test_an_interim_answer_is_passed_over() -> None:
    async with (
        pool_to(Server(b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED)) as pool,
        pool.request("GET", "/") as connection,
    ):
        assert (connection.status, await connection.read()) == (201, b"hello")


async def test_a_connection_that_the_engine_will_close_is_not_used_again() -> None:
    server = Server(SIZED.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), close=True)
    async with pool_to(server) as pool:
        for _ in range(3):
            async with pool.request("GET", "/") as connection:
                assert await connection.read() == b"hello"
    assert server.connections == 3


@pytest.mark.parametrize("answer", [CHUNKED, SIZED])
async def test_an_answer_that_was_complete_and_not_read_does_not_stand_before_the_next_one(answer: bytes) -> None:
    server = Server(answer)
    async with pool_to(server) as pool:
        async with pool.request("GET", "/") as connection:
            unread = await connection.peek()
            assert connection.is_complete
        async with pool.request("GET", "/") as connection:
            assert await connection.read() == unread
    assert server.connections == 2


async def test_leaving_before_the_answer_is_complete_closes_the_connection() -> None:
    server = Server(CHUNKED[:60])
    async with pool_to(server) as pool:
        async with pool.request("GET", "/") as connection:
            assert connection.status == 200
        assert await eventually_async(lambda: server.ended)
    assert server.ended == 1


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", CHUNKED[:60], SIZED[:-1], b"<html>no http"])
async def test_an_answer_that_ends_too_early_or_is_no_http_broke_off(answer: bytes) -> None:
    async with pool_to(Server(answer, close=True)) as pool:
        with pytest.raises(EngineBrokeOffError):
            async with pool.request("GET", "/") as connection:
                await connection.read()


async def test_nothing_that_listens_was_never_reached() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        pool = ConnectionPool(f"http://127.0.0.1:{free.getsockname()[1]}", connect_timeout_s=5, idle_timeout_s=5)
        with pytest.raises(EngineUnreachableError):
            async with pool.request("GET", "/"):
                pass


@pytest.mark.parametrize("answer", [b"", CHUNKED[:60]])
async def test_silence_has_a_limit_before_and_within_an_answer(answer: bytes) -> None:
    async with pool_to(Server(answer), idle_timeout_s=0.05) as pool:
        with pytest.raises(EngineTimeoutError) as silent:
            async with pool.request("GET", "/") as connection:
                await connection.read()
    assert silent.value.code == "engine_idle_timeout"


async def test_a_reader_that_waits_is_not_taken_for_a_silent_engine_and_holds_the_engine_back() -> None:
    blocks = [b"%x\r\n" % (1 << 16) + b"x" * (1 << 16) + b"\r\n"] * 200
    server = Server(CHUNKED[: CHUNKED.index(b"4\r\n")], *blocks, b"0\r\n\r\n")
    async with pool_to(server, idle_timeout_s=1) as pool, pool.request("GET", "/") as connection:
        first = await connection.next_chunk()
        await asyncio.sleep(1.5)
        second = await connection.next_chunk()
        assert len(second) < 2 << 20
        rest = await chunks_of(connection)
    assert len(first) + len(second) + sum(map(len, rest)) == 200 << 16


async def test_what_the_engine_says_unasked_ends_the_connection() -> None:
    server = Server(SIZED, SIZED)
    async with pool_to(server) as pool:
        async with pool.request("GET", "/") as connection:
            assert await connection.read() == b"hello"
        await asyncio.sleep(0.05)
        async with pool.request("GET", "/") as connection:
            assert await connection.read() == b"hello"
    assert server.connections == 2
