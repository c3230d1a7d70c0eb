"""Canaries that are worse than live are taken back, with the evidence; others are left alone."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.inference.poison_requests import body_kind
from gateway.releases.canary import CanaryLimits, RequestWindow, WindowSummary, exceeded_limit
from loadtest.mock_engine.engine import Fault, MockSettings
from tests.gateway.conftest import Attached
from tests.gateway.releases.conftest import gateway_with_versions
from tests.waiting import eventually

LIVE = WindowSummary(200, 2, 100.0, 40.0)


@pytest.mark.parametrize(
    ("canary", "broken"),
    [
        (WindowSummary(19, 19, None, None), None),  # too few to say anything
        (WindowSummary(50, 3, 110.0, 45.0), None),  # 6 % against 1 % is within five points
        (WindowSummary(50, 4, 110.0, 45.0), "error rate is 8.0% against 1.0%"),
        (WindowSummary(50, 0, 250.0, 45.0), "p95 latency is 250 ms against 100 ms"),
        (WindowSummary(50, 0, 190.0, 45.0), None),
        (WindowSummary(50, 0, 110.0, 91.0), "p95 time to first token is 91 ms against 40 ms"),
        (WindowSummary(50, 0, 110.0, 85.0), None),  # twice as slow, but 45 ms go unnoticed
        (WindowSummary(50, 0, 5.0, None), None),
    ],
)
def test_a_canary_is_judged_against_live(canary: WindowSummary, broken: str | None) -> None:
    found = exceeded_limit(canary, LIVE, CanaryLimits())
    assert (found is None) if broken is None else (found is not None and broken in found)


def test_latency_is_not_compared_with_a_handful_of_live_answers_but_errors_are() -> None:
    few = WindowSummary(3, 0, 1.0, 1.0)
    assert exceeded_limit(WindowSummary(50, 0, 900.0, 900.0), few, CanaryLimits()) is None
    assert exceeded_limit(WindowSummary(50, 5, 1.0, 1.0), few, CanaryLimits()) is not None


def test_a_window_forgets_what_is_too_old() -> None:
    window = RequestWindow(10)
    for second in range(20):
        window.answered(second, latency_ms=100 * second, ttft_ms=None)
    window.failed(20)
    assert window.summary(20) == WindowSummary(11, 1, 1900.0, None)
    assert window.summary(100) == WindowSummary(0, 0, None, None)


def test_the_95th_percentile_is_one_of_the_values() -> None:
    window = RequestWindow(10)
    for value in range(100):
        window.answered(0, latency_ms=value, ttft_ms=value / 2)
    assert window.summary(0) == WindowSummary(100, 0, 94.0, 47.0)


def ask_as(gateway: Attached, users: range, **fields: object) -> dict[str, str]:
    """Ask once as each user: which version answered whom, or the status of the refusal."""
    answers = {str(user): gateway.chat(model="mine", user=str(user), **fields) for user in users}
    return {user: got.headers.get("x-turntable-adapter", "") for user, got in answers.items()}


def policy(gateway: Attached) -> dict[str, Any]:
    document: dict[str, Any] = gateway.http.get("/admin/v1/adapters/mine").json()["policy"]
    return document


def engine_name(gateway: Attached, number: int) -> str:
    versions = gateway.http.get("/admin/v1/adapters/mine").json()["versions"]
    return f"mine@{versions[number - 1]['digest'][:12]}"


def test_a_failing_canary_is_taken_back_by_the_gateway_with_evidence(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=2)) as gateway:
        live, canary = engine_name(gateway, 1), engine_name(gateway, 2)
        body = {"version": "v2", "percent": 50, "bounds": {"min_requests": 8}}
        assert gateway.http.post("/admin/v1/adapters/mine/canary", json=body).json()["canary"]["percent"] == 50
        before = ask_as(gateway, range(30))
        assert set(before.values()) == {live, canary}
        assert before == ask_as(gateway, range(30)), "a user is sent to and fro"
        gateway.engine.faults[canary] = Fault.ERROR_500
        assert eventually(lambda: bool(ask_as(gateway, range(8))) and policy(gateway)["canary"] is None)
        assert policy(gateway)["live"] == "v1"
        assert set(ask_as(gateway, range(30)).values()) == {live}
        newest = gateway.http.get("/admin/v1/audit?subject=mine&limit=1").json()["data"][0]
        assert (newest["actor"], newest["action"], newest["subject"]) == ("gateway", "clear_canary", "mine@v2")
        assert "error rate" in newest["evidence"]["broken"]
        assert newest["evidence"]["canary_window"]["errors"] > 0 == newest["evidence"]["live_window"]["errors"]
        assert newest["evidence"]["bounds"]["min_requests"] == 8
        metrics = gateway.http.get("/metrics").text
        assert 'turntable_canary_rollbacks_total{model="mine"} 1.0' in metrics


@contextmanager
def without_table(gateway: Attached, table: str) -> Iterator[None]:
    """The gateway's database refuses whatever needs a table, at once."""

    def rename(old: str, new: str) -> None:
        with closing(sqlite3.connect(gateway.data_dir / "turntable.db")) as connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    rename(table, f"{table}_away")
    yield
    rename(f"{table}_away", table)


def failures(gateway: Attached) -> bool:
    return 'turntable_background_failures_total{task="canary_rollbacks"}' in gateway.http.get("/metrics").text


def test_a_rollback_that_the_database_refused_is_done_later_without_another_request(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=2)) as gateway:
        body = {"version": "v2", "percent": 50, "bounds": {"min_requests": 8}}
        assert gateway.http.post("/admin/v1/adapters/mine/canary", json=body).is_success
        gateway.engine.faults[engine_name(gateway, 2)] = Fault.ERROR_500
        with without_table(gateway, "audit_log"):
            assert eventually(lambda: bool(ask_as(gateway, range(8))) and failures(gateway))
        assert eventually(lambda: policy(gateway)["canary"] is None)


def test_bounds_that_the_database_did_not_tell_at_first_are_in_force_afterwards(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=2)) as gateway:
        body = {"version": "v2", "percent": 50, "bounds": {"min_requests": 3}}
        assert gateway.http.post("/admin/v1/adapters/mine/canary", json=body).is_success

        def bounds() -> Any:
            return gateway.http.get("/admin/v1/adapters/mine").json()["canary_watch"]["bounds"]["min_requests"]

        with without_table(gateway, "adapter_evidence"):
            ask_as(gateway, range(4))
            assert eventually(lambda: failures(gateway))
        assert eventually(lambda: bounds() == 3)


def test_bounds_that_an_operator_changes_are_in_force_while_the_canary_goes_on(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=2)) as gateway:

        def set_bounds(least: int) -> None:
            body = {"version": "v2", "percent": 50, "bounds": {"min_requests": least}}
            assert gateway.http.post("/admin/v1/adapters/mine/canary", json=body).is_success

        def bounds() -> Any:
            return gateway.http.get("/admin/v1/adapters/mine").json()["canary_watch"]["bounds"]["min_requests"]

        set_bounds(3)
        ask_as(gateway, range(4))
        assert eventually(lambda: bounds() == 3)
        set_bounds(5)
        assert eventually(lambda: bounds() == 5)


def test_what_clients_do_wrong_is_not_held_against_a_canary(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=2)) as gateway:
        body = {"version": 2, "percent": 100, "bounds": {"min_requests": 1}}
        assert gateway.http.post("/admin/v1/adapters/mine/canary", json=body).status_code == 200
        ask_as(gateway, range(4))
        assert {gateway.chat(model="mine", max_tokens=0).status_code for _ in range(20)} == {400}
        document = gateway.http.get("/admin/v1/adapters/mine").json()
        assert document["policy"]["canary"] == {"version": "v2", "percent": 100}
        assert document["canary_watch"]["canary"]["requests"] == 4
        assert document["canary_watch"]["bounds"]["min_requests"] == 1


def test_bodies_that_no_version_ever_answered_do_not_take_a_canary_back(tmp_path: Path) -> None:
    """One caller with bodies that any engine fails on would otherwise decide over everybody's canary."""
    with gateway_with_versions(tmp_path, MockSettings(tokens=2)) as gateway:
        body = {"version": 2, "percent": 100, "bounds": {"min_requests": 4}}
        assert gateway.http.post("/admin/v1/adapters/mine/canary", json=body).status_code == 200
        ask_as(gateway, range(8))
        for number in range(30):
            odd = {"mock_fault": "error_500", "vllm_xargs": {"odd": number}}
            assert gateway.chat(model="mine", user="the attacker", **odd).status_code == 502
        assert policy(gateway)["canary"] == {"version": "v2", "percent": 100}


def test_a_kind_of_body_that_was_answered_before_tells_of_the_version(tmp_path: Path) -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with gateway_with_versions(tmp_path, MockSettings(tokens=2)) as gateway:
        body = {"version": 2, "percent": 100, "bounds": {"min_requests": 4}}
        assert gateway.http.post("/admin/v1/adapters/mine/canary", json=body).status_code == 200
        ask_as(gateway, range(8), tools=tools)
        gateway.engine.faults[engine_name(gateway, 2)] = Fault.ERROR_500
        assert eventually(lambda: bool(ask_as(gateway, range(8), tools=tools)) and policy(gateway)["canary"] is None)


PLAIN = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "stream": True}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]


def test_kinds_of_bodies_differ_by_all_but_their_texts() -> None:
    assert body_kind(PLAIN) is body_kind(PLAIN | {"messages": [{"role": "system", "content": "x"}]}) is None
    assert body_kind(PLAIN | {"tools": None}) is None
    kinds = [
        body_kind(PLAIN | {"tools": [1]}),
        body_kind(PLAIN | {"tools": [2]}),
        body_kind(PLAIN | {"messages": PARTS}),
        body_kind(PLAIN | {"messages": [{"role": "user", "content": None, "tool_calls": []}]}),
    ]
    assert None not in kinds
    assert len(set(kinds)) == len(kinds)
    other = [{"role": "user", "content": [{"type": "text", "text": "something else"}]}]
    assert body_kind(PLAIN | {"messages": PARTS}) == body_kind(PLAIN | {"messages": other})
    deep: Any = "end"
    for _ in range(900):
        deep = [deep]
    assert body_kind({"messages": deep}) is None
