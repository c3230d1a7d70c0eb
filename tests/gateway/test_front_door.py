"""The front door over raw sockets: ambiguous framing, slow and greedy clients, too many of them."""

import contextlib
import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from gateway.settings import Settings
from loadtest.canned.server import serving
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready

BODY = b'{"model":"base","messages":[{"role":"user","content":"hi"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        yield client


def read_all(client: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def refusal(answer: bytes) -> tuple[int, str]:
    """Status and code of the one answer that ends a connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize(
    "lines",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"content-length: 5, 5\r\n\r\nhello",
        b"content-length: +5\r\n\r\nhello",
        b"content-length: -5\r\n\r\nhello",
        b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n",
        b"x-a: b\r\n c\r\n\r\n",
        b"x-a: b\rx-b: c\r\n\r\n",
        b"x-a: a\x00b\r\n\r\n",
        b"x a: 1\r\n\r\n",
        b"host: second\r\n\r\n",
    ],
)
def test_a_message_that_can_be_read_in_two_ways_is_refused(attached: Attached, lines: bytes) -> None:
    seen = len(attached.engine.received)
    with connected(attached.url) as client:
        client.sendall(HEAD + lines)
        assert refusal(read_all(client)) == (400, "bad_framing")
    assert len(attached.engine.received) == seen


@pytest.mark.parametrize(
    "message",
    [
        b"POST /v1/chat/completions HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\nhost: x\n\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_not_http_1_1_is_refused(attached: Attached, message: bytes) -> None:
    with connected(attached.url) as client:
        client.sendall(message)
        assert refusal(read_all(client)) == (400, "bad_framing")


def test_a_request_in_many_pieces_and_one_after_another_on_a_connection_is_answered(attached: Attached) -> None:
    request = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    with connected(attached.url) as client:
        for _ in range(2):
            for byte in request:
                client.sendall(bytes([byte]))
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(request + request)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 2:
            answers += client.recv(65536)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with small limits."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("narrow"),
        header_timeout_s=0.3,
        body_timeout_s=0.3,
        max_header_bytes=1000,
        max_connections=3,
    )
    with serving() as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        yield url


@pytest.mark.parametrize("start", [b"", b"P", HEAD, HEAD + b"x-a: "])
def test_a_client_that_does_not_finish_its_headers_is_cut(narrow: str, start: bytes) -> None:
    with connected(narrow) as client:
        client.sendall(start)
        assert refusal(read_all(client)) == (408, "request_timeout")


def test_slow_headers_of_a_later_request_are_cut_too(narrow: str) -> None:
    with connected(narrow) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while b'"ok"' not in answer:
            answer += client.recv(65536)
        client.sendall(b"GET /health HT")
        assert refusal(read_all(client)) == (408, "request_timeout")


def test_a_client_that_does_not_finish_its_body_is_cut(narrow: str) -> None:
    with connected(narrow) as client:
        client.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"request_timeout" in answer


def test_an_answer_that_came_before_the_body_does_not_leave_the_connection_open(narrow: str) -> None:
    """Else anybody could hold all connections with requests that are refused at once."""
    with connected(narrow) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        answer = read_all(client)
    assert (answer.split()[1], answer.count(b"HTTP/1.1")) == (b"401", 1)


def test_a_body_that_comes_after_its_answer_leaves_the_connection_in_order(narrow: str) -> None:
    with connected(narrow) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 401")
        client.sendall(b"bodyGET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_headers_without_end_are_cut(narrow: str) -> None:
    with connected(narrow) as client:
        client.sendall(HEAD + b"x-a: " + b"a" * 2000)
        assert refusal(read_all(client)) == (431, "headers_too_large")


def test_more_connections_than_allowed_are_told_so_and_closed(narrow: str) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(narrow)) for _ in range(3)]
        for client in held:
            client.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        with connected(narrow) as late:
            assert refusal(read_all(late)) == (503, "server_is_overloaded")
    assert httpx.get(f"{narrow}/health").status_code == 200


def test_a_path_is_what_the_request_line_says_whatever_the_host(attached: Attached) -> None:
    for host in (b"x/v1/models?", b"x#", b"evil@x", b"[::1]:1"):
        with connected(attached.url) as client:
            client.sendall(b"GET /admin/v1/adapters HTTP/1.1\r\nconnection: close\r\nhost: " + host + b"\r\n\r\n")
            assert read_all(client).startswith(b"HTTP/1.1 401")
