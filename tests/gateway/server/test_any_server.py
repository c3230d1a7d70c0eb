"""The app on servers that are not ours: plain uvicorn with either parser, and no server at all."""

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import uvicorn

from gateway.settings import Settings
from loadtest.mock_engine import serving
from loadtest.mock_engine.engine import Fault, MockEngine, MockSettings
from tests.gateway.conftest import KEY, Attached, gateway_app, in_process_gateway, wait_until_ready
from tests.waiting import eventually

CHAT = "/v1/chat/completions"
BODY = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
# At its end a gateway closes the threads of the loop it ran in.
own_loop = pytest.mark.asyncio(loop_scope="function")
TEXT = "".join(f"w{number} " for number in range(8))


@pytest_asyncio.fixture(loop_scope="function")
async def in_process(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    with serving(MockSettings(tokens=8)) as engine:
        async with in_process_gateway(Settings(data_dir=tmp_path, max_body_bytes=10_000), engine.url) as http:
            yield http


@pytest.fixture(scope="module", params=["h11", "httptools"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    """A gateway behind uvicorn as anybody starts it."""
    given_up: list[str] = []
    with serving(MockSettings(tokens=8, coalesce=False)) as engine:
        data_dir = tmp_path_factory.mktemp("plain")
        settings = Settings(data_dir=data_dir, max_body_bytes=10_000, keep_alive_s=0.2)
        app, _ = gateway_app(settings, engine.url, given_up=given_up)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = uvicorn.Server(uvicorn.Config(app, http=request.param, log_level="warning"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            thread.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            wait_until_ready(url)
            gateway = Attached(url, engine, data_dir)
            yield gateway
            gateway.http.close()
            server.should_exit = True
            thread.join()
    assert not given_up


def plain_address(plain: Attached) -> tuple[str, int]:
    host, port = plain.url.removeprefix("http://").split(":")
    return host, int(port)


def request(**fields: object) -> bytes:
    content = json.dumps(BODY | fields).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\nauthorization: Bearer {KEY}\r\n"
    return head.encode() + b"\r\n" + content


def has_received(engine: MockEngine, user: str) -> bool:
    return any(body.get("user") == user for body in list(engine.received))


@own_loop
async def test_without_a_server_answers_and_streams_are_whole(in_process: httpx.AsyncClient) -> None:
    whole = await in_process.post(CHAT, json=BODY)
    assert whole.json()["choices"][0]["message"]["content"] == TEXT
    stream = await in_process.post(CHAT, json=BODY | {"stream": True})
    assert (stream.text.count('"content":"w'), stream.text.endswith("data: [DONE]\n\n")) == (8, True)
    assert stream.headers["content-type"].startswith("text/event-stream")
    for _ in range(500):
        (usage,) = (await in_process.get("/admin/v1/usage")).json()["data"]
        if usage["unsettled"] == 0:
            break
        await asyncio.sleep(0.02)
    assert (usage["requests"], usage["completion_tokens"]) == (2, 16)


@own_loop
async def test_without_a_server_bodies_are_bounded_and_unpacked(in_process: httpx.AsyncClient) -> None:
    packed = gzip.compress(json.dumps(BODY).encode())
    answer = await in_process.post(CHAT, content=packed, headers={"content-encoding": "gzip"})
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    assert (await in_process.post(CHAT, content=b"x" * 10_001)).status_code == 413
    bomb = gzip.compress(b" " * 10_001)
    assert (await in_process.post(CHAT, content=bomb, headers={"content-encoding": "gzip"})).status_code == 413


@own_loop
async def test_without_a_server_a_task_that_is_cancelled_stops_the_engine(tmp_path: Path) -> None:
    with serving(MockSettings(tokens=8)) as engine:
        async with in_process_gateway(Settings(data_dir=tmp_path), engine.url) as http:
            task = asyncio.create_task(http.post(CHAT, json=BODY | {"mock_fault": Fault.HANG, "user": "leaves"}))
            assert await asyncio.to_thread(eventually, lambda: has_received(engine.engine, "leaves"))
            task.cancel()
            await asyncio.wait([task])
            assert await asyncio.to_thread(eventually, lambda: engine.engine.aborted == 1)
            (row,) = (await http.get("/admin/v1/usage")).json()["data"]
            assert row["requests"] == 1


def test_plain_uvicorn_answers_streams_and_refuses(plain: Attached) -> None:
    assert plain.chat(max_tokens=8).json()["choices"][0]["message"]["content"] == TEXT
    assert plain.chat(max_tokens=8, stream=True).text.count('"content":"w') == 8
    packed = gzip.compress(json.dumps(BODY).encode())
    assert plain.http.post(CHAT, content=packed, headers={"content-encoding": "gzip"}).status_code == 200
    assert plain.http.post(CHAT, content=b"x" * 10_001).status_code == 413
    assert plain.http.get(CHAT).status_code == 405
    assert plain.http.get("/admin/v1/engines").status_code == 200
    assert plain.chat(stream=True, mock_fault=Fault.DROP_MID_STREAM).text.count('"error"') == 1


def test_plain_uvicorn_sends_a_stream_as_it_comes_and_keeps_it_alive(plain: Attached) -> None:
    body = BODY | {"stream": True, "mock_fault": Fault.HANG_MID_STREAM}
    with plain.http.stream("POST", CHAT, json=body) as answer:
        pieces, seen = answer.iter_text(), ""
        while ": keep-alive" not in seen:
            seen += next(pieces)
    assert '"content":"w0 "' in seen
    assert eventually(lambda: plain.engine.running == 0)


@pytest.mark.parametrize(("stream", "fault"), [(True, Fault.HANG), (True, Fault.HANG_MID_STREAM), (False, Fault.HANG)])
def test_plain_uvicorn_tells_when_a_client_leaves(plain: Attached, stream: bool, fault: Fault) -> None:
    aborted = plain.engine.aborted
    with socket.create_connection(plain_address(plain)) as client:
        client.sendall(request(stream=stream, mock_fault=fault, user=f"{fault}-{stream}"))
        assert eventually(lambda: has_received(plain.engine, f"{fault}-{stream}"))
        assert plain.engine.aborted == aborted
    assert eventually(lambda: plain.engine.aborted == aborted + 1)
    assert eventually(lambda: plain.engine.running == 0)


def test_plain_uvicorn_holds_back_what_a_client_does_not_read(plain: Attached) -> None:
    finished = plain.engine.finished
    with socket.create_connection(plain_address(plain)) as client:
        client.sendall(request(stream=True, max_tokens=200_000, ignore_eos=True))
        assert eventually(lambda: plain.engine.running == 1)
        # 40 MB would have come within seconds if anything in between kept taking them.
        assert not any(plain.engine.finished > finished or threading.Event().wait(0.1) for _ in range(30))
    assert eventually(lambda: plain.engine.running == 0)
