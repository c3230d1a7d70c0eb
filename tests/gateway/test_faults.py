"""What clients see when things go wrong between the gateway and its engine."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIError, AuthenticationError, InternalServerError, NotFoundError, OpenAI

from gateway.settings import Settings
from loadtest.canned.chat import LEAKED_PATH
from loadtest.canned.engine import CannedSettings, Fault
from loadtest.canned.server import serving
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether a condition comes true within ten seconds."""
    return any(holds() or threading.Event().wait(0.02) for _ in range(500))


def ledger(attached: Attached, **expected: Any) -> list[dict[str, Any]]:
    """The ledger's sums over everything, by adapter."""
    return list(attached.http.get("/admin/v1/usage", params=expected).json()["data"])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_supported"),
        ("GET", "/nowhere", 404, "unknown_url"),
        ("POST", "/v1/load_lora_adapter", 404, "unknown_url"),
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
            client.chat.completions.create(model="base", messages=messages, extra_body={"canned_fault": "drop"})
        assert failed.value.status_code in (502, 503)
        stream = client.chat.completions.create(
            model="base", messages=messages, stream=True, extra_body={"canned_fault": "drop_mid_stream"}
        )
        with pytest.raises(APIError, match="broke off"):
            list(stream)
    with OpenAI(base_url=f"{attached.url}/v1", api_key="tt-wrong") as stranger, pytest.raises(AuthenticationError):
        stranger.chat.completions.create(model="base", messages=messages)


def test_an_engines_500_is_translated_and_its_paths_stay_inside(attached: Attached) -> None:
    response = attached.chat(canned_fault=Fault.ERROR_500)
    assert response.status_code == 502
    assert LEAKED_PATH not in response.text


def test_an_error_event_in_the_stream_is_told_without_the_engines_words(attached: Attached) -> None:
    response = attached.chat(stream=True, canned_fault=Fault.ERROR_MID_STREAM)
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert json.loads(events[-1])["error"]["code"] == "engine_failed"
    assert LEAKED_PATH not in response.text
    assert len(events) > 1


def test_a_broken_off_stream_is_booked_with_what_was_generated(attached: Attached) -> None:
    before = {row["adapter"]: row for row in ledger(attached)}.get("base", {"completion_tokens": 0})
    attached.chat(stream=True, max_tokens=8, canned_fault=Fault.DROP_MID_STREAM)
    assert eventually(lambda: ledger(attached)[0]["completion_tokens"] == before["completion_tokens"] + 4)


@pytest.mark.parametrize("fault", [Fault.HANG, Fault.HANG_MID_STREAM])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_the_engine(attached: Attached, stream: bool, fault: Fault) -> None:
    aborted = attached.engine.aborted
    mark = f"{fault}-{stream}"
    body = {"model": "base", "messages": [{"role": "user", "content": mark}], "stream": stream, "canned_fault": fault}
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


def test_an_engine_that_falls_silent_is_a_504(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, idle_timeout_s=0.3)
    with serving(CannedSettings(fault=Fault.HANG)) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        response = httpx.post(
            f"{url}/v1/chat/completions",
            json={"model": "base", "messages": [{"role": "user", "content": "hi"}]},
            headers={"authorization": f"Bearer {KEY}"},
        )
        assert response.status_code == 504


def test_metrics_count_requests_by_model_and_never_by_what_clients_invent(attached: Attached) -> None:
    attached.chat()
    attached.chat(model="invented-by-a-client")
    text = httpx.get(f"{attached.url}/metrics").text
    assert 'turntable_requests_total{model="base",status="200"}' in text
    assert "invented-by-a-client" not in text


def test_the_key_appears_in_no_answer_and_no_file(attached: Attached) -> None:
    attached.chat(canned_fault=Fault.ERROR_500)
    for path in ("/metrics", "/admin/v1/usage", "/admin/v1/audit", "/admin/v1/engines"):
        assert KEY not in attached.http.get(path).text
    for file in attached.data_dir.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes(), file
