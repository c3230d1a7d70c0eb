"""The ledger held against engines: what agrees, what is told when it does not, and who is asked."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready
from tests.waiting import eventually

FAST = {"reconcile_every_s": 0.05}


def reconciliation(gateway: Attached) -> dict[str, Any]:
    answer = gateway.http.get("/admin/v1/usage/reconciliation")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def settled(gateway: Attached) -> bool:
    return all(row["unsettled"] == 0 for row in gateway.http.get("/admin/v1/usage").json()["data"])


def gauge(gateway: Attached, name: str, **labels: str) -> float | None:
    families = text_string_to_metric_families(gateway.http.get("/metrics").text)
    found = [s.value for f in families for s in f.samples if s.name == name and s.labels.items() >= labels.items()]
    return found[0] if found else None


def leave_in_the_middle(gateway: Attached, *, stream: bool) -> None:
    """Ask for a long answer and hang up once the engine works on it."""
    before, running = gateway.engine.generation_tokens, gateway.engine.running
    body = {"model": "base", "messages": [{"role": "user", "content": "a long one"}], "max_tokens": 4000}
    content = json.dumps(body | {"stream": stream, "ignore_eos": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}authorization: Bearer {KEY}\r\n\r\n".encode() + content)
        assert eventually(lambda: gateway.engine.generation_tokens > before)
    assert eventually(lambda: gateway.engine.running == running)


@pytest.fixture
def gateway(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    engine = MockSettings(tokens=6, itl_ms=2, tells_tokens=getattr(request, "param", True))
    settings = Settings.model_validate({"data_dir": tmp_path} | FAST)
    with serving(engine) as server, running_gateway(settings, server.url) as url:
        wait_until_ready(url)
        attached = Attached(url, server, tmp_path)
        yield attached
        attached.http.close()


def test_answers_streams_and_clients_that_leave_add_up_to_what_the_engine_counted(gateway: Attached) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: gateway.chat(stream=bool(n % 2)), range(40)))
    for stream in (True, False):
        leave_in_the_middle(gateway, stream=stream)
    assert eventually(lambda: settled(gateway))
    (run,) = reconciliation(gateway)["data"]
    assert run["agreement"] == "agrees", run
    assert run["evidence"] == {"exact": 42}
    for kind, counted in (("prompt_tokens", gateway.engine.prompt_tokens), ("completion_tokens", None)):
        assert (
            run["tokens"][kind]["ledger"] == run["tokens"][kind]["engine"] == (counted or run["tokens"][kind]["engine"])
        )
        assert run["tokens"][kind]["ratio"] == 1
    assert run["tokens"]["completion_tokens"]["engine"] == gateway.engine.generation_tokens > 240
    assert eventually(lambda: gauge(gateway, "turntable_ledger_engine_ratio", kind="completion") == 1)
    assert gauge(gateway, "turntable_ledger_engine_outside") == 0


@pytest.mark.parametrize("gateway", [False], indirect=True)
def test_an_engine_that_cannot_say_what_a_request_took_leaves_the_last_count_seen(gateway: Attached) -> None:
    leave_in_the_middle(gateway, stream=True)
    assert eventually(lambda: settled(gateway))
    (run,) = reconciliation(gateway)["data"]
    assert set(run["evidence"]) <= {"last_continuous", "none"}
    assert run["tokens"]["completion_tokens"]["ledger"] <= gateway.engine.generation_tokens


def test_tokens_missing_on_the_ledger_are_an_alarm_that_ends_with_the_engines_run(
    gateway: Attached, caplog: pytest.LogCaptureFixture
) -> None:
    direct = {"model": "base", "messages": [{"role": "user", "content": "past the gateway"}], "max_tokens": 200}
    gateway.chat()
    engine = gateway.http.get("/admin/v1/engines").json()["data"][0]["url"]
    httpx.post(f"{engine}/v1/chat/completions", json=direct | {"ignore_eos": True}).raise_for_status()
    assert reconciliation(gateway)["agreement"] == "outside"
    assert eventually(lambda: gauge(gateway, "turntable_ledger_engine_outside") == 1)
    ratio = gauge(gateway, "turntable_ledger_engine_ratio", kind="completion")
    assert ratio is not None
    assert ratio < 0.1
    assert "the ledger and engine-0 differ" in caplog.text
    gateway.engine.prompt_tokens = gateway.engine.generation_tokens = 0
    gateway.engine.started_s += 1  # as if it had been restarted
    gateway.chat()
    assert eventually(lambda: gauge(gateway, "turntable_ledger_engine_outside") == 0)
    assert "agree again" in caplog.text
    assert [run["agreement"] for run in reconciliation(gateway)["data"]] == ["agrees", "outside"]


def test_two_gateways_on_one_engine_and_database_agree_with_it_together(
    tmp_path: Path, empty_database_url: str
) -> None:
    def settings(name: str) -> Settings:
        return Settings.model_validate({"data_dir": tmp_path / name, "database_url": empty_database_url} | FAST)

    with serving(MockSettings(tokens=6, tells_tokens=True)) as server:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        with running_gateway(settings("one"), server.url) as one, running_gateway(settings("two"), server.url) as two:
            for url in (one, two):
                wait_until_ready(url)
            gateways = [Attached(url, server, tmp_path) for url in (one, two)]
            for number in range(10):
                gateways[number % 2].chat()
            for gateway in gateways:
                assert eventually(partial(has_rows, gateway, 10))
                (run,) = reconciliation(gateway)["data"]
                tokens = run["tokens"]["completion_tokens"]
                assert (tokens["ledger"], tokens["engine"]) == (60, 60)
                gateway.http.close()


def has_rows(gateway: Attached, count: int) -> bool:
    return bool(reconciliation(gateway)["data"][0]["rows"].get("clients") == count)
