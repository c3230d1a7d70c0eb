"""The HTTP protocol over raw sockets: ambiguous framing, slow and greedy clients, too many of them."""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator

import httpx
import pytest

from gateway.cli.listening import IDLE_CONNECTION_S
from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import Fault
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready
from tests.gateway.server.raw_sockets import connected, read_all
from tests.waiting import eventually

BODY = b'{"model":"base","messages":[{"role":"user","content":"hi"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"


def read_until(client: socket.socket, is_enough: Callable[[bytes], bool]) -> bytes:
    """What comes until it is enough, on a connection that stays open."""
    answers = b""
    while not is_enough(answers):
        piece = client.recv(65536)
        assert piece, answers
        answers += piece
    return answers


def chunked(*pieces: bytes) -> bytes:
    """A whole body in chunks, without its last line break: trailers can follow."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n"


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
        b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: ,chunked\r\n\r\n0\r\n\r\n",
        b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n',
        b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        b"transfer-encoding:\r\ncontent-length: 5\r\n\r\nhello",
        b"transfer-encoding\x00: chunked\r\ncontent-length: 5\r\n\r\nhello",
        b" transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\nhello",
        b"x: y\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\nhello",
        b"connection: upgrade\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\nhello",
        b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        b"content-length : 5\r\n\r\nhello",
        b"content-length: 0x5\r\n\r\nhello",
        b"content-length: 0_5\r\n\r\nhello",
        b"content-length: \xef\xbc\x95\r\n\r\nhello",
        b"content-length: 18446744073709551621\r\n\r\nhello",
        b"content-length:\r\n\r\nhello",
        b": x\r\n\r\n",
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
    attached.engine.received.clear()
    with connected(attached.url) as client:
        client.sendall(HEAD + lines)
        assert refusal(read_all(client)) == (400, "bad_framing")
    assert not attached.engine.received


@pytest.mark.parametrize(
    "message",
    [
        b"POST /v1/chat/completions HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\nhost: x\n\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /health HTTP/2.0\r\nhost: x\r\n\r\n",
        b"GET /health HTTP/0.9\r\nhost: x\r\n\r\n",
        b"GET /health HTTP/1.2\r\nhost: x\r\n\r\n",
        b"GET /health http/1.1\r\nhost: x\r\n\r\n",
        b"GET /health HTTP/1.1 x\r\nhost: x\r\n\r\n",
        b"GET\t/health\tHTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET x:80 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET health HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/mod\xc3\xa9ls HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/mod\xe9ls HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_not_http_1_1_is_refused(attached: Attached, message: bytes) -> None:
    with connected(attached.url) as client:
        client.sendall(message)
        assert refusal(read_all(client)) == (400, "bad_framing")


@pytest.mark.parametrize(
    "size_line",
    [b"%x;a\n", b"%x\n", b'%x;a="\r\n"\r\n', b"%x \r\n", b"0x%x\r\n", b"+%x\r\n", b"%x\r\nX", b"\r\n%x\r\n"],
)
def test_a_chunk_that_can_be_read_in_two_ways_is_refused_without_its_request(
    attached: Attached, size_line: bytes
) -> None:
    attached.engine.received.clear()
    with connected(attached.url) as client:
        client.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + size_line % len(BODY) + BODY + b"\r\n0\r\n\r\n")
        assert refusal(read_all(client)) == (400, "bad_framing")
    assert not attached.engine.received


def test_a_client_that_leaves_behind_many_pipelined_requests_has_none_of_them_run(attached: Attached) -> None:
    hanging = BODY.replace(b"}]}", b'}],"mock_fault":"hang"}')
    first, more = (HEAD + b"content-length: %d\r\n\r\n" % len(body) + body for body in (hanging, BODY))
    aborted = attached.engine.aborted
    attached.engine.received.clear()
    with connected(attached.url) as client:
        client.sendall(first + more * 40)
        assert eventually(lambda: len(attached.engine.received) == 1)
    assert eventually(lambda: attached.engine.aborted == aborted + 1)
    with connected(attached.url) as client:
        client.sendall(more * 40 + b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert read_all(client).count(b"HTTP/1.1 200 OK") == 41
    assert len(attached.engine.received) == 41


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


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"foo/2"])
@pytest.mark.parametrize("cut", [0, 40, -20, -len(BODY)])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_offer_of_another_protocol_is_passed_over_with_the_body_and_all_that_follows_in_place(
    attached: Attached, protocol: bytes, cut: int, is_chunked: bool
) -> None:
    """Java's client offers h2c with its first request; a body taken for a request would be smuggled in."""
    body = BODY.replace(b"hi", b"GET /v1/models HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n")
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: " + protocol + b"\r\nhttp2-settings: AAEAAEAA\r\n"
    framed = b"content-length: %d\r\n\r\n%b" % (len(body), body)
    if is_chunked:
        framed = b"transfer-encoding: chunked\r\n\r\n" + chunked(body[:30], body[30:]) + b"\r\n"
    message = HEAD + offer + framed
    attached.engine.received.clear()
    with connected(attached.url) as client:
        client.sendall(message[:cut])
        client.sendall(message[cut:] + b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answers = read_all(client)
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1 ") == 2, answers
    assert answers.endswith(b'{"status":"ok"}')
    assert [sent["messages"][0]["content"][:14] for sent in attached.engine.received] == ["GET /v1/models"]


@pytest.mark.parametrize(
    ("trailer", "head", "status"),
    [
        (b"authorization: Bearer " + KEY.encode(), HEAD.replace(KEY.encode(), b"tt-wrong"), b"401"),
        (b"authorization: Bearer tt-wrong", HEAD, b"200"),
        (b"content-length: 5", HEAD, b"400"),
        (b"host: second", HEAD, b"200"),
    ],
)
def test_a_trailer_is_no_header(attached: Attached, trailer: bytes, head: bytes, status: bytes) -> None:
    with connected(attached.url) as client:
        client.sendall(head + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n")
        client.sendall(chunked(BODY) + trailer + b"\r\n\r\n")
        assert read_all(client).split()[1] == status


@pytest.mark.parametrize("wanted", [b"200-ok", b"100-continue, x=1", b""])
def test_an_unsupported_expectation_is_refused_at_once(attached: Attached, wanted: bytes) -> None:
    with connected(attached.url) as client:
        client.sendall(HEAD + b"expect: " + wanted + b"\r\ncontent-length: 100\r\n\r\n")
        assert refusal(read_all(client)) == (417, "expectation_failed")


def test_a_client_that_expects_100_continue_gets_it(attached: Attached) -> None:
    with connected(attached.url) as client:
        client.sendall(HEAD + b"expect: 100-Continue\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("size", [100, 60_000, 100_000, 1_000_000])
@pytest.mark.parametrize("behind", [b"", b"small", b"large"])
def test_a_client_that_leaves_is_noticed_whatever_it_sent(attached: Attached, size: int, behind: bytes) -> None:
    """A large body that one read brought, or a request behind the one that runs, must not hide that it left."""

    def request(length: int, **fields: object) -> bytes:
        content = [{"role": "user", "content": "x" * length}]
        body = json.dumps({"model": "base", "messages": content} | fields).encode()
        return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body

    aborted = attached.engine.aborted
    attached.engine.received.clear()
    with connected(attached.url) as client:
        client.sendall(request(size, mock_fault=Fault.HANG))
        if behind:
            client.sendall(request(10 if behind == b"small" else 300_000))
        assert eventually(lambda: len(attached.engine.received) == 1)
    assert eventually(lambda: attached.engine.aborted == aborted + 1)
    assert len(attached.engine.received) == 1  # the pipelined request does not start without a client


def test_what_is_wrong_behind_a_running_request_is_never_read_as_its_answer(attached: Attached) -> None:
    body = BODY.replace(b"}]}", b'}],"stream":true,"mock_fault":"hang_mid_stream"}')
    with connected(attached.url) as client:
        client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        read_until(client, lambda answer: b"data: " in answer)
        client.sendall(b"no request\r\n\r\n")
        assert b"HTTP/1.1" not in read_all(client)
    assert eventually(lambda: attached.engine.running == 0)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway with small limits, and time enough for a client that a busy machine holds up."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("narrow"), max_header_bytes=1000, max_connections=3)
    with serving() as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        yield url


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that waits for no slow client."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("hasty"), header_timeout_s=1, body_timeout_s=1)
    with serving() as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        yield url


@pytest.mark.parametrize("start", [b"", b"P", HEAD, HEAD + b"x-a: "])
def test_a_client_that_does_not_finish_its_headers_is_cut(hasty: str, start: bytes) -> None:
    with connected(hasty) as client:
        client.sendall(start)
        assert refusal(read_all(client)) == (408, "request_timeout")


def test_slow_headers_of_a_later_request_are_cut_too(hasty: str) -> None:
    with connected(hasty) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        read_until(client, lambda answer: b'"ok"' in answer)
        client.sendall(b"GET /health HT")
        assert refusal(read_all(client)) == (408, "request_timeout")


def test_a_client_that_does_not_finish_its_body_is_cut(hasty: str) -> None:
    with connected(hasty) as client:
        client.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"request_timeout" in answer


@pytest.mark.parametrize(
    ("framing", "piece"), [(b"content-length: 9999", b"x"), (b"transfer-encoding: chunked", b"1\r\nx\r\n")]
)
def test_a_body_that_trickles_in_is_cut_however_steadily(hasty: str, framing: bytes, piece: bytes) -> None:
    with connected(hasty) as client:
        client.sendall(HEAD + framing + b"\r\n\r\n")
        client.settimeout(0.1)
        answer = b""
        while not answer:
            client.sendall(piece)
            with contextlib.suppress(TimeoutError):
                answer = client.recv(65536)
    assert (answer.split()[1], b"request_timeout" in answer) == (b"408", True)


def test_an_answer_that_came_before_the_body_does_not_leave_the_connection_open(hasty: str) -> None:
    """Else anybody could hold all connections with requests that are refused at once."""
    with connected(hasty) as client:
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


@pytest.mark.parametrize("line", [b"x-a: " + b"a" * 2000 + b"\r\n", b"a: 1\r\n" * 200])
def test_headers_that_one_read_brings_are_bounded_too(narrow: str, line: bytes) -> None:
    for before in (b"", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"):
        with connected(narrow) as client:
            client.sendall(before + HEAD + line + b"content-length: 2\r\n\r\n{}")
            answer = read_all(client)
        assert b"HTTP/1.1 200" not in answer.removeprefix(b"HTTP/1.1 200")
        assert not before or not answer or answer.startswith(b"HTTP/1.1 200")
        assert before or refusal(answer) == (431, "headers_too_large")


@pytest.mark.parametrize("beside", [b"0\r\nx-a: ", b"0\r\n" + b"x-a: a\r\n" * 200, b"5;", b"0\r\n\r"])
def test_what_comes_beside_a_body_is_bounded(narrow: str, beside: bytes) -> None:
    with connected(narrow) as client:
        client.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunked(b"{")[:-3])
        client.sendall(beside)
        with contextlib.suppress(ConnectionError):  # closed while this still sends
            for _ in range(100):
                client.sendall(b"x" * 100)
            assert refusal(read_all(client))[0] in (400, 431)
            return
        with pytest.raises(ConnectionError):
            client.sendall(b"x")


def test_a_body_in_chunks_of_one_byte_is_served(narrow: str) -> None:
    padded = BODY + b" " * 3000
    with connected(narrow) as client:
        client.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for start in range(0, len(padded), 100):
            client.sendall(chunked(*(bytes([byte]) for byte in padded[start : start + 100]))[:-3])
        client.sendall(b"0\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_connections_beyond_the_limit_get_an_error_and_are_closed(narrow: str) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(narrow)) for _ in range(3)]
        for client in held:
            client.sendall(HEAD + b"content-length: 100\r\n\r\n{")
        with connected(narrow) as late:
            assert refusal(read_all(late)) == (503, "server_is_overloaded")
    assert httpx.get(f"{narrow}/health").status_code == 200


def test_an_idle_connection_outlives_what_clients_and_load_balancers_keep(attached: Attached) -> None:
    head = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    with connected(attached.url) as client:
        client.sendall(head)
        read_until(client, lambda answer: answer.endswith(b"}"))
        client.settimeout(6)  # httpx and the OpenAI clients keep an idle connection for 5 s
        with pytest.raises(TimeoutError):
            client.recv(1)
    assert IDLE_CONNECTION_S > 60  # nginx and AWS load balancers


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The listener for applications, beside one for operators."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("public"), admin_port=0)
    with serving() as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        yield url


@pytest.mark.parametrize(
    "target",
    [
        *(b"/admin/v1/keys", b"//admin/v1/keys", b"/admin//v1/keys", b"/./admin/v1/keys", b"/ADMIN/v1/keys"),
        *(b"/v1/../admin/v1/keys", b"/health/../admin/v1/keys", b"/v1/models/../../admin/v1/keys"),
        *(b"/v1/models/..;/admin/v1/keys", b"/v1/models/..%2f..%2fadmin%2fv1%2fkeys", b"/admin;/v1/keys"),
        *(b"/admin%2fv1/keys", b"/%61dmin/v1/keys", b"/%2e/admin/v1/keys", b"/admin\\v1\\keys", b"/admin/v1/keys%20"),
        *(b"http://x/admin/v1/keys", b"http://admin/admin/v1/keys#/health", b"/admin/v1/keys?/health"),
        *(b"/metrics", b"/docs", b"/openapi.json", b"*"),
    ],
)
def test_no_spelling_of_an_operators_path_is_served_to_applications(public: str, target: bytes) -> None:
    with connected(public) as client:
        head = b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer "
        client.sendall(head + KEY.encode() + b"\r\n\r\n")
        answer = read_all(client)
    assert int(answer.split()[1]) in (400, 404), answer
    assert b'"data"' not in answer


def test_a_path_is_what_the_request_line_says_whatever_the_host(attached: Attached) -> None:
    for host in (b"x/v1/models?", b"x#", b"evil@x", b"[::1]:1"):
        with connected(attached.url) as client:
            client.sendall(b"GET /admin/v1/adapters HTTP/1.1\r\nconnection: close\r\nhost: " + host + b"\r\n\r\n")
            assert read_all(client).startswith(b"HTTP/1.1 401")
