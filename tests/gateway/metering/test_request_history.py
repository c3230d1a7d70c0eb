"""Why did a request fail? Every way to fail is found by its id, with the reason, and without what was asked."""

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.admin_client import ADDRESS_FILE
from gateway.clock import now_us
from gateway.metering.refusal_log import MOST_PENDING, WRITE_EVERY_S, Refusal, RefusalLog, without_secrets
from gateway.settings import Settings, inherited_environment
from loadtest.mock_engine.app import MockServer, serving
from loadtest.mock_engine.engine import Fault, MockSettings
from tests.conftest import TURNTABLE
from tests.gateway.auth.conftest import PEPPER
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready
from tests.gateway.processes import serve
from tests.waiting import wait_until

PROMPT = "the prompt that must not be kept"
REFUSALS = "refusals of this gateway"


@pytest.fixture
def engine() -> Iterator[MockServer]:
    with serving(MockSettings(tokens=4, itl_ms=5)) as server:
        yield server


@pytest.fixture
def gateway(engine: MockServer, tmp_path: Path, database_url: str) -> Iterator[Attached]:
    (data_dir := tmp_path / "data").mkdir()
    settings = Settings(data_dir=data_dir, database_url=database_url, key_pepper=PEPPER)
    with running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        yield (attached := Attached(url, engine, settings.data_dir))
        attached.http.close()


def asked(gateway: Attached, key: str = KEY, request_id: str = "", **fields: object) -> httpx.Response:
    body = {"model": "base", "messages": [{"role": "user", "content": PROMPT}]} | fields
    headers = {"authorization": f"Bearer {key}"} | ({"x-request-id": request_id} if request_id else {})
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def found(gateway: Attached, request_id: str) -> dict[str, Any]:
    (one,) = gateway.http.get(f"/admin/v1/requests/{request_id}").raise_for_status().json()["data"]
    return dict(one)


def new_key(gateway: Attached, **fields: object) -> tuple[str, str]:
    made = (
        gateway.http.post("/admin/v1/keys", json={"name": "app", "tenant": "acme"} | fields).raise_for_status().json()
    )
    return made["id"], made["key"]


def everything_kept(gateway: Attached) -> bytes:
    return b"".join(path.read_bytes() for path in gateway.data_dir.rglob("*") if path.is_file())


def test_an_answered_request_is_found_with_who_what_where_how_long_and_what_it_cost(gateway: Attached) -> None:
    key_id, key = new_key(gateway)
    answer = asked(gateway, key)
    one = found(gateway, answer.headers["x-request-id"])
    assert (one["status"], one["outcome"], one["reason"]) == (200, "completed", None)
    assert (one["key"], one["tenant"], one["model"], one["api"]) == (key_id, "acme", "base", "/v1/chat/completions")
    assert one["engine"]
    assert one["tokens"]["completion"] == 4
    timings = one["timings_ms"]
    assert 0 <= timings["queue"] <= timings["total"]
    assert 0 < timings["ttft"] <= timings["total"]
    assert one["found_in"] == "ledger"


def test_every_refusal_is_found_by_id_with_its_reason(gateway: Attached, engine: MockServer) -> None:
    key_id, key = new_key(gateway, rpm=1)
    assert asked(gateway, key).status_code == 200
    refused = {
        "invalid_api_key": asked(gateway, "tt-nobody-gave-this-out"),
        "model_not_found": asked(gateway, model="nope"),
        "rate_limit_exceeded": asked(gateway, key),
        None: asked(gateway, stream="yes"),
    }
    assert [answer.status_code for answer in refused.values()] == [401, 404, 429, 400]
    for code, answer in refused.items():
        one, error = found(gateway, answer.headers["x-request-id"]), answer.json()["error"]
        assert (one["status"], one["found_in"]) == (answer.status_code, REFUSALS)
        assert one["reason"] == {"code": error["code"], "message": error["message"]}
        assert code in (None, error["code"])
        assert one["timings_ms"]["total"] >= 0
    limited = found(gateway, refused["rate_limit_exceeded"].headers["x-request-id"])
    assert (limited["key"], limited["tenant"]) == (key_id, "acme")
    assert limited["model"] is None, "a limit is asked before the body, which names the model, is read"


def test_what_the_engine_refused_or_failed_at_has_its_reason_on_the_ledger(
    gateway: Attached, engine: MockServer
) -> None:
    engine.engine.settings = replace(engine.engine.settings, fault=Fault.ERROR_500)
    failed = asked(gateway)
    assert failed.status_code == 502
    engine.engine.settings = replace(engine.engine.settings, fault=None)
    refused = asked(gateway, messages=[])
    for answer in (failed, refused):
        wait_until(lambda: found(gateway, answer.headers["x-request-id"])["status"] == answer.status_code)  # noqa: B023
        one, error = found(gateway, answer.headers["x-request-id"]), answer.json()["error"]
        assert one["reason"]["message"] == error["message"]
    assert found(gateway, failed.headers["x-request-id"])["found_in"] == "ledger"
    assert found(gateway, failed.headers["x-request-id"])["engine"]


def test_an_unavailable_engine_and_a_client_that_left_are_found(tmp_path: Path, engine: MockServer) -> None:
    settings = Settings(data_dir=tmp_path, max_in_flight=1, max_queue=0)
    with running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        gateway = Attached(url, engine, tmp_path)
        engine.engine.settings = replace(engine.engine.settings, fault=Fault.HANG)
        with httpx.Client() as client:
            leaving = threading.Thread(target=lambda: left(client, gateway))
            leaving.start()
            wait_until(lambda: any(PROMPT in str(body) for body in list(engine.engine.received)))
            overloaded = asked(gateway)
            assert overloaded.status_code == 503
            one = found(gateway, overloaded.headers["x-request-id"])
            assert (one["status"], one["reason"]["code"]) == (503, "server_is_overloaded")
            leaving.join()
        wait_until(lambda: gateway.http.get("/admin/v1/requests/gone-1").json()["data"][0]["status"] == 499)
        gone = found(gateway, "gone-1")
        assert gone["outcome"] == "client_abort"
        assert "closed its connection" in gone["reason"]["message"]
        gateway.http.close()


def left(client: httpx.Client, gateway: Attached) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": PROMPT}]}
    headers = {"authorization": f"Bearer {KEY}", "x-request-id": "gone-1"}
    with pytest.raises(httpx.ReadTimeout):
        client.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=2)


def test_the_clients_own_id_finds_all_requests_of_that_id(gateway: Attached) -> None:
    asked(gateway, request_id="order/7?x=1")
    asked(gateway, request_id="order/7?x=1", model="nope")
    answer = gateway.http.get("/admin/v1/requests/order%2F7%3Fx%3D1").json()["data"]
    assert [one["status"] for one in answer] == [404, 200]
    assert {one["client_request_id"] for one in answer} == {"order/7?x=1"}
    missing = gateway.http.get("/admin/v1/requests/req_none")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")


def test_lists_are_filtered_by_status_key_tenant_model_and_time(gateway: Attached) -> None:
    key_id, key = new_key(gateway)
    asked(gateway, key)
    asked(gateway, key, model="nope")
    asked(gateway, "tt-wrong-wrong-wrong")

    def listed(**wanted: str) -> list[int]:
        answer = gateway.http.get("/admin/v1/requests", params=wanted).raise_for_status()
        return sorted(one["status"] for one in answer.json()["data"])

    assert listed() == [200, 401, 404]
    assert listed(status="4xx") == [401, 404]
    assert listed(status="404") == [404]
    assert listed(status="5xx") == []
    assert listed(key=key_id) == listed(tenant="acme") == [200, 404]
    assert listed(model="nope") == [404]
    assert listed(since="2100-01-01") == []
    assert listed(limit="1") in ([401], [404], [200])
    for wrong in ({"status": "many"}, {"model": "a\0b"}, {"since": "soon"}, {"limit": "0"}):
        assert gateway.http.get("/admin/v1/requests", params=wrong).status_code == 400
    assert gateway.http.get("/admin/v1/requests/%C2%A0").status_code == 404
    for path in ("/admin/v1/requests", "/admin/v1/requests/x"):
        assert httpx.get(f"{gateway.url}{path}", headers={"authorization": f"Bearer {key}"}).status_code == 403


def test_neither_prompts_nor_keys_are_kept(gateway: Attached) -> None:
    _, key = new_key(gateway)
    wrong = "tt-0123456789abcdef0123456789abcdef"
    asked(gateway, wrong)
    asked(gateway, key, model=key)
    asked(gateway, key, temperature=key)
    asked(gateway, key, messages=[{"role": key, "content": PROMPT}])
    gateway.http.get("/admin/v1/requests").raise_for_status()
    kept = everything_kept(gateway)
    for secret in (wrong, key, KEY, PROMPT):
        assert secret.encode() not in kept


def test_the_commands_show_and_list_requests(gateway: Attached) -> None:
    answer = asked(gateway, model="nope")

    def turntable(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = inherited_environment() | {
            "TURNTABLE_GATEWAY_URL": gateway.url,
            "TURNTABLE_ADMIN_KEY": KEY,
            "COLUMNS": "200",
        }
        command = [TURNTABLE, "requests", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    shown = turntable("show", answer.headers["x-request-id"])
    assert shown.returncode == 0, shown.stderr
    assert "404, refused" in shown.stdout
    assert "The model `nope` does not exist or you do not have access to it. (model_not_found)" in shown.stdout
    listed = turntable("list", "--status", "404")
    assert answer.headers["x-request-id"] in listed.stdout
    assert "model_not_found" in listed.stdout
    missing = turntable("show", "req_none")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_a_forgotten_tenant_is_gone_from_the_refusals(gateway: Attached) -> None:
    key_id, key = new_key(gateway)
    asked(gateway, key)
    answer = asked(gateway, key, model="nope")
    gateway.http.delete(f"/admin/v1/keys/{key_id}").raise_for_status()
    forgotten = gateway.http.post("/admin/v1/usage/forget", json={"tenant": "acme"})
    assert forgotten.status_code == 200, forgotten.text
    one = found(gateway, answer.headers["x-request-id"])
    assert (one["tenant"], one["key"]) == (forgotten.json()["pseudonym"], None)


def refusal(number: int, status: int, message: str = "x") -> Refusal:
    return Refusal(f"req_{number}", None, now_us(), status, "code", message, "/v1/chat/completions")


def test_a_flood_of_one_kind_drives_out_no_other_and_stays_in_bounds(tmp_path: Path) -> None:
    log = RefusalLog(tmp_path, most_file_bytes=50_000)
    log.add(refusal(1, 429))
    log.flush()
    for number in range(5 * MOST_PENDING):
        log.add(refusal(100 + number, 401, "y" * 300))
        if number % 500 == 0:
            log.flush()
    assert [one.status for one in log.find("req_1")] == [429]
    assert [one.status for one in log.find(f"req_{99 + 5 * MOST_PENDING}")] == [401]
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) <= {"limits.jsonl", "keys.jsonl", "keys.old.jsonl"}
    assert max(sizes.values()) <= 50_000 * 2


def test_notes_survive_a_restart_and_half_a_line_costs_only_itself(tmp_path: Path) -> None:
    log = RefusalLog(tmp_path)
    log.add(refusal(1, 404))
    log.flush()
    path = tmp_path / "not_found.jsonl"
    path.write_bytes(path.read_bytes() + b'{"id":"req_2","client')
    again = RefusalLog(tmp_path)
    again.add(refusal(3, 404))
    assert {one.id for one in again.all()} == {"req_1", "req_3"}


def test_a_disk_that_takes_nothing_costs_no_request(tmp_path: Path) -> None:
    (tmp_path / "refusals").write_text("in the way")
    log = RefusalLog(tmp_path / "refusals")
    log.add(refusal(1, 404))
    log.flush()
    assert log.find("req_1") == []


def test_a_killed_gateway_loses_only_the_notes_of_the_last_moment(tmp_path: Path) -> None:
    with serving(MockSettings()) as engine:
        with serve(tmp_path, engine.url) as process:
            url = json.loads((tmp_path / ADDRESS_FILE).read_text())["url"]
            key = (tmp_path / "admin.key").read_text().strip()
            headers = {"authorization": f"Bearer {key}"}
            body = {"model": "nope", "messages": [{"role": "user", "content": PROMPT}]}
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code == 404
            log = tmp_path / "refusals" / "not_found.jsonl"
            wait_until(log.exists)  # which takes no longer than WRITE_EVERY_S on an idle machine
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            process.returncode = 0
        (one,) = RefusalLog(tmp_path / "refusals").find(answer.headers["x-request-id"])
    assert one.code == "model_not_found"
    assert WRITE_EVERY_S <= 0.25


@pytest.mark.parametrize(
    ("text", "kept"),
    [("no key tt-abcdef0123456789 here", "no key tt-... here"), ("two\nlines\0", "two lines "), ("x" * 999, "x" * 300)],
)
def test_sentences_are_short_and_hold_no_keys(text: str, kept: str) -> None:
    assert without_secrets(text) == kept
