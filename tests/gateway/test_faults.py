"""What clients see when things go wrong between the gateway and its engine."""

import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIError, AuthenticationError, InternalServerError, NotFoundError, OpenAI

from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.completions import LEAKED_PATH
from loadtest.mock_engine.engine import Fault, MockSettings
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready
from tests.waiting import eventually


def ledger(attached: Attached, **expected: Any) -> list[dict[str, Any]]:
    """The ledger's sums over everything, by adapter."""
    return list(attached.http.get("/admin/v1/usage", params=expected).json()["data"])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_supported"),
        ("GET", "/nowhere", 404, "unknown_url"),
        ("POST", "/v1/turntable/adapters/remove", 404, "unknown_url"),
        ("POST", "/adapters", 404, "unknown_url"),
        ("GET", "/collective_rpc", 404, "unknown_url"),
        ("DELETE", "/health", 405, "method_not_supported"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
        ("GET", "/admin/v1/adapters/nobody", 404, "not_found"),
        ("GET", "/admin/v1/usage?group_by=colour", 400, None),
        ("GET", "/admin/v1/costs?vs=openai:nothing", 400, None),
    ],
)
def test_every_error_has_openais_shape(
    attached: Attached, method: str, path: str, status: int, code: str | None
) -> None:
    response = attached.http.request(method, path)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/admin/v1/adapters", "/admin/v1/usage", "/admin/v1/costs", "/admin/v1/engines", "/admin/v1/audit"],
)
def test_nothing_but_health_answers_without_a_key(attached: Attached, path: str) -> None:
    assert httpx.get(attached.url + path).status_code == 401
    assert httpx.get(attached.url + path, headers={"authorization": "Bearer tt-wrong"}).status_code == 401


def test_the_openai_client_raises_its_own_errors(attached: Attached) -> None:
    messages: Any = [{"role": "user", "content": "hi"}]
    with OpenAI(base_url=f"{attached.url}/v1", api_key=KEY, max_retries=0) as client:
        with pytest.raises(NotFoundError) as unknown:
            client.chat.completions.create(model="nobody", messages=messages)
        assert unknown.value.code == "model_not_found"
        with pytest.raises(InternalServerError) as failed:
            client.chat.completions.create(model="base", messages=messages, extra_body={"mock_fault": "drop"})
        assert failed.value.status_code in (502, 503)
        stream = client.chat.completions.create(
            model="base", messages=messages, stream=True, extra_body={"mock_fault": "drop_mid_stream"}
        )
        with pytest.raises(APIError, match="closed the connection"):
            list(stream)
    with OpenAI(base_url=f"{attached.url}/v1", api_key="tt-wrong") as stranger, pytest.raises(AuthenticationError):
        stranger.chat.completions.create(model="base", messages=messages)


def test_an_engines_500_is_translated_and_its_paths_stay_inside(attached: Attached) -> None:
    response = attached.chat(mock_fault=Fault.ERROR_500)
    assert response.status_code == 502
    assert LEAKED_PATH not in response.text


def test_an_error_event_in_the_stream_is_replaced_by_one_without_the_engines_message(attached: Attached) -> None:
    response = attached.chat(stream=True, mock_fault=Fault.ERROR_MID_STREAM)
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert json.loads(events[-1])["error"]["code"] == "engine_failed"
    assert LEAKED_PATH not in response.text
    assert len(events) > 1


def test_a_broken_off_stream_is_booked_with_what_was_generated(attached: Attached) -> None:
    before = {row["adapter"]: row for row in ledger(attached)}.get("base", {"completion_tokens": 0})
    attached.chat(stream=True, max_tokens=8, mock_fault=Fault.DROP_MID_STREAM)
    assert eventually(lambda: ledger(attached)[0]["completion_tokens"] == before["completion_tokens"] + 4)


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_MID_STREAM])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_the_engine(attached: Attached, stream: bool, fault: Fault) -> None:
    aborted = attached.engine.aborted
    mark = f"{fault}-{stream}"
    body = {"model": "base", "messages": [{"role": "user", "content": mark}], "stream": stream, "mock_fault": fault}
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    host, port = attached.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}authorization: Bearer {KEY}\r\n\r\n".encode() + content)
        assert eventually(
            lambda: any(sent["messages"][0]["content"] == mark for sent in list(attached.engine.received))
        )
        assert attached.engine.aborted == aborted
    assert eventually(lambda: attached.engine.aborted == aborted + 1)
    assert eventually(lambda: attached.engine.running == 0)


def test_a_client_that_leaves_before_its_row_is_written_leaves_no_open_row(attached: Attached) -> None:
    content = b'{"model":"base","messages":[{"role":"user","content":"hi"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    host, port = attached.url.removeprefix("http://").split(":")
    for _ in range(200):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"{head}authorization: Bearer {KEY}\r\n\r\n".encode() + content)
    assert eventually(lambda: ledger(attached)[0]["unsettled"] == 0)


def test_a_body_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with serving() as engine, running_gateway(Settings(data_dir=tmp_path, max_body_bytes=1000), engine.url) as url:
        wait_until_ready(url)
        headers = {"authorization": f"Bearer {KEY}"}
        response = httpx.post(f"{url}/v1/chat/completions", content=b"x" * 1001, headers=headers)
        assert response.status_code == 413
        chunked = httpx.post(f"{url}/v1/chat/completions", content=iter([b"x" * 600] * 2), headers=headers)
        assert chunked.status_code == 413


def test_an_engine_that_is_not_there_is_a_503_with_retry_after_and_a_reason(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with running_gateway(Settings(data_dir=tmp_path), nobody) as url:
        ready = httpx.get(f"{url}/ready")
        assert ready.status_code == 503
        assert eventually(lambda: nobody in httpx.get(f"{url}/ready").json()["error"]["message"])
        response = httpx.post(
            f"{url}/v1/chat/completions",
            json={"model": "base", "messages": [{"role": "user", "content": "hi"}]},
            headers={"authorization": f"Bearer {KEY}"},
        )
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize(
    ("limits", "fault", "stream", "code"),
    [
        ({"idle_timeout_s": 0.3}, Fault.HANG, False, "engine_idle_timeout"),
        ({"first_byte_timeout_s": 0.3}, Fault.HANG, True, "engine_first_byte_timeout"),
        ({"total_timeout_s": 0.3}, Fault.HANG, False, "engine_total_timeout"),
        ({"total_timeout_s": 0.3}, Fault.HANG, True, "engine_total_timeout"),
        ({"total_timeout_s": 2}, Fault.HANG_MID_STREAM, True, "engine_total_timeout"),
        ({"idle_timeout_s": 0.3}, Fault.HANG_MID_STREAM, True, "engine_idle_timeout"),
    ],
)
def test_each_time_limit_has_an_error_of_its_own(
    tmp_path: Path, limits: dict[str, float], fault: Fault, stream: bool, code: str
) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path} | limits)
    with serving(MockSettings(fault=fault)) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        headers = {"authorization": f"Bearer {KEY}"}
        response = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)
        assert response.status_code == (200 if fault is Fault.HANG_MID_STREAM else 504)
        assert code in response.text
        assert eventually(lambda: engine.engine.running == 0)


def test_a_silent_stream_carries_comments_that_clients_ignore(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, keep_alive_s=0.05, first_byte_timeout_s=1)
    with serving(MockSettings(fault=Fault.HANG)) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        response = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
        assert response.status_code == 200
        assert response.text.count(": keep-alive\n\n") > 3
        assert "engine_first_byte_timeout" in response.text.splitlines()[-2]
        with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client, pytest.raises(APIError):
            list(client.chat.completions.create(**body))  # type: ignore[call-overload]


def test_the_clients_request_id_is_kept_and_every_answer_has_one(attached: Attached) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}]}
    answer = attached.http.post("/v1/chat/completions", json=body, headers={"x-request-id": "my-id-7"})
    assert answer.headers["x-request-id"] == "my-id-7"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    streamed = json.dumps(body | {"stream": True}).encode()
    for content in (b"{", json.dumps(body | {"model": "nobody"}).encode(), streamed):
        response = attached.http.post("/v1/chat/completions", content=content)
        assert response.headers["x-request-id"].startswith("req_")
    odd = attached.http.post("/v1/chat/completions", json=body, headers={"x-request-id": "a b" + "c" * 200})
    assert odd.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/nobody", "/nowhere", "/health", "/docs"])
def test_every_answer_has_an_id_the_clients_own_if_it_sent_one(attached: Attached, path: str) -> None:
    assert attached.http.get(path).headers["x-request-id"].startswith("req_")
    assert attached.http.get(path, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


def test_the_api_describes_itself_without_loading_anything(attached: Attached) -> None:
    paths = attached.http.get("/openapi.json").json()["paths"]
    page = attached.http.get("/docs").text
    assert {"/v1/chat/completions", "/v1/messages", "/v1/models", "/admin/v1/adapters"} <= paths.keys()
    assert all(path in page for path in paths)
    assert not re.search(r"(src|href)=\"https?:|<script", page)


def test_a_reader_that_stops_reading_does_not_fill_the_gateways_memory(attached: Attached) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    content = json.dumps(body | {"max_tokens": 200_000, "ignore_eos": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    host, port = attached.url.removeprefix("http://").split(":")
    finished = attached.engine.finished
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}authorization: Bearer {KEY}\r\n\r\n".encode() + content)
        assert eventually(lambda: attached.engine.running == 1)
        # Half a minute of tokens would arrive in a second if anybody in between kept taking them.
        assert not eventually(lambda: attached.engine.finished > finished, 2, 0.1)
        assert attached.engine.running == 1
    assert eventually(lambda: attached.engine.running == 0)


def test_web_pages_may_call_only_from_origins_that_were_named(attached: Attached, tmp_path: Path) -> None:
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in attached.http.options("/v1/chat/completions", headers=preflight).headers
    settings = Settings(data_dir=tmp_path, cors_origins=("https://app.example",))
    with serving() as engine, running_gateway(settings, engine.url) as url:
        allowed = httpx.options(f"{url}/v1/chat/completions", headers=preflight)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        other = httpx.options(f"{url}/v1/chat/completions", headers=preflight | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_all_slots_taken_and_the_queue_full_is_a_503_with_retry_after(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, max_in_flight=1, max_queue=0)
    with serving(MockSettings(fault=Fault.HANG)) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        content = b'{"model":"base","messages":[{"role":"user","content":"hi"}]}'
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
        host, port = url.removeprefix("http://").split(":")
        headers = {"authorization": f"Bearer {KEY}"}
        with socket.create_connection((host, int(port))) as client:
            client.sendall(f"{head}authorization: Bearer {KEY}\r\n\r\n".encode() + content)
            assert eventually(lambda: len(engine.engine.received) == 1)
            refused = httpx.post(f"{url}/v1/chat/completions", content=content, headers=headers)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "server_is_overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        usage = httpx.get(f"{url}/admin/v1/usage", headers=headers).json()["data"]
        assert usage[0]["requests"] == 1


def test_metrics_count_requests_by_model_and_never_by_what_clients_invent(attached: Attached) -> None:
    attached.chat()
    attached.chat(model="invented-by-a-client")
    text = attached.http.get("/metrics").text
    assert 'turntable_requests_total{model="base",status="200"}' in text
    assert "invented-by-a-client" not in text


def test_only_streams_have_a_time_to_first_token(attached: Attached) -> None:
    def counts() -> list[str]:
        lines = attached.http.get("/metrics").text.splitlines()
        kinds = [f"turntable_{kind}_seconds_count{{" for kind in ("ttft", "latency")]
        return [line.split()[1] for kind in kinds for line in lines if line.startswith(kind) and '"base"' in line]

    attached.chat(stream=True)
    first, latencies = map(float, counts())
    attached.chat()
    assert list(map(float, counts())) == [first, latencies + 1]
    attached.chat(stream=True)
    assert list(map(float, counts())) == [first + 1, latencies + 2]


def test_the_key_appears_in_no_answer_and_no_file(attached: Attached) -> None:
    attached.chat(mock_fault=Fault.ERROR_500)
    for path in ("/metrics", "/admin/v1/usage", "/admin/v1/audit", "/admin/v1/engines"):
        assert KEY not in attached.http.get(path).text
    for file in attached.data_dir.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file


class NothingToSay(BaseHTTPRequestHandler):
    """An engine that is healthy, and whose streams end before they begin."""

    def do_GET(self) -> None:  # the name that http.server calls
        known = self.path in ("/health", "/version")
        self.answer(b'{"version": "0.32.0"}' if known else b"", 200 if known else 404)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.answer(b"")

    def answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def test_a_stream_without_a_single_event_is_a_502_and_no_empty_success(tmp_path: Path) -> None:
    engine = ThreadingHTTPServer(("127.0.0.1", 0), NothingToSay)
    threading.Thread(target=engine.serve_forever, daemon=True).start()
    settings = Settings(data_dir=tmp_path)
    with engine, running_gateway(settings, f"http://127.0.0.1:{engine.server_port}") as url:
        wait_until_ready(url)
        response = httpx.post(
            f"{url}/v1/chat/completions",
            json={"model": "base", "messages": [{"role": "user", "content": "hi"}], "stream": True},
            headers={"authorization": f"Bearer {KEY}"},
        )
        engine.shutdown()
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_failed")
