"""The admin surface for traffic: promote, roll back, split, pin, withdraw, with the right refusals."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters import Registry
from gateway.database import open_database
from gateway.settings import Settings
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.conftest import Attached
from tests.gateway.releases.conftest import gateway_with_versions
from tests.waiting import eventually

MINE = "/admin/v1/adapters/mine"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Attached]:
    with gateway_with_versions(tmp_path, MockSettings(tokens=2), max_loras=3) as attached:
        yield attached


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    """One gateway for all that changes nothing."""
    with gateway_with_versions(tmp_path_factory.mktemp("untouched"), MockSettings(tokens=2)) as attached:
        yield attached


def policy(gateway: Attached) -> dict[str, Any]:
    document: dict[str, Any] = gateway.http.get(MINE).json()["policy"]
    return document


def traffic(gateway: Attached) -> list[str]:
    return [row["traffic"] for row in gateway.http.get("/admin/v1/adapters").json()["data"]]


def refusal(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    assert error["message"].endswith((".", "!"))
    return answer.status_code, error["code"], error["param"]


def test_versions_may_be_written_in_three_ways(gateway: Attached) -> None:
    for version in ("v2", "2", 2):
        promoted = gateway.http.post(f"{MINE}/promote", json={"version": version, "expect_live": "1"}).json()
        assert (promoted["version"], promoted["live"]) == ("v2", True)
        assert gateway.http.post(f"{MINE}/promote", json={"version": 1, "expect_live": version}).status_code == 200


def test_a_rollback_goes_back_once_and_a_stale_expectation_changes_nothing(gateway: Attached) -> None:
    assert refusal(gateway.http.post(f"{MINE}/rollback")) == (409, "conflict", None)
    gateway.http.post(f"{MINE}/promote", json={"version": 2})
    assert traffic(gateway) == ["previous", "live", ""]
    assert refusal(gateway.http.post(f"{MINE}/rollback", json={"expect_live": 3})) == (409, "conflict", None)
    assert refusal(gateway.http.post(f"{MINE}/promote", json={"version": 3, "expect_live": 1}))[0] == 409
    assert policy(gateway)["live"] == "v2"
    assert gateway.http.post(f"{MINE}/rollback", json={"expect_live": "v2"}).json()["version"] == "v1"
    assert refusal(gateway.http.post(f"{MINE}/rollback"))[0] == 409


def test_a_promotion_may_begin_as_a_canary_and_end_it(gateway: Attached) -> None:
    begun = gateway.http.post(f"{MINE}/promote", json={"version": 2, "canary_percent": 20, "expect_live": 1})
    assert begun.json()["traffic"] == "canary 20%"
    assert traffic(gateway) == ["live 80%", "canary 20%", ""]
    stale = gateway.http.post(f"{MINE}/promote", json={"version": 3, "canary_percent": 20, "expect_live": 2})
    assert refusal(stale)[0] == 409
    gateway.http.post(f"{MINE}/promote", json={"version": 2})
    assert policy(gateway) == {"live": "v2", "previous": "v1", "canary": None, "shadow": None, "pinned": False}


def test_a_canary_is_refused_when_another_gateway_promoted_meanwhile(gateway: Attached) -> None:
    database = open_database(Settings(data_dir=gateway.data_dir).database)
    Registry(database).promote("mine", 2, actor="another gateway")
    late = gateway.http.post(f"{MINE}/promote", json={"version": 3, "canary_percent": 20, "expect_live": 1})
    assert refusal(late)[0] == 409
    assert eventually(lambda: policy(gateway)["live"] == "v2")
    assert policy(gateway)["canary"] is None
    database.dispose()


def test_splits_begin_and_end_and_are_listed(gateway: Attached) -> None:
    gateway.http.post(f"{MINE}/canary", json={"version": 2, "percent": 2.5})
    shadowed = gateway.http.post(f"{MINE}/shadow", json={"version": 3, "percent": 50}).json()
    assert shadowed["shadow"] == {"version": "v3", "percent": 50}
    assert traffic(gateway) == ["live 97.5%", "canary 2.5%", "shadow 50%"]
    assert gateway.http.delete(f"{MINE}/canary").json()["canary"] is None
    assert gateway.http.delete(f"{MINE}/shadow").json()["shadow"] is None
    assert gateway.http.delete(f"{MINE}/shadow").status_code == 200


def test_versions_with_traffic_cannot_be_retired(gateway: Attached) -> None:
    gateway.http.post(f"{MINE}/canary", json={"version": 2, "percent": 10})
    gateway.http.post(f"{MINE}/shadow", json={"version": 3, "percent": 10})
    for number in (1, 2, 3):
        assert refusal(gateway.http.delete(f"{MINE}/versions/v{number}")) == (409, "conflict", None)
    assert len(traffic(gateway)) == 3
    assert all((path / "manifest.json").exists() for path in (gateway.data_dir / "adapters").glob("[0-9a-f]*"))


def test_what_nothing_leads_to_any_more_leaves_the_engine(gateway: Attached) -> None:
    rows = gateway.http.get("/admin/v1/adapters").json()["data"]
    names = {row["version"]: f"mine@{row['digest'][:12]}" for row in rows}
    gateway.http.post(f"{MINE}/promote", json={"version": 2})
    assert gateway.engine.adapters.keys() == {names["v1"], names["v2"]}, "a rollback needs no load"
    gateway.http.post(f"{MINE}/promote", json={"version": 3})
    assert eventually(lambda: gateway.engine.adapters.keys() == {names["v2"], names["v3"]})
    assert gateway.chat(model="mine@v1").status_code == 200, "its ref still leads there"


def test_a_withdrawn_name_is_not_served_and_can_be_brought_back(gateway: Attached) -> None:
    withdrawn = gateway.http.delete(f"{MINE}/live").json()
    assert (withdrawn["version"], withdrawn["live"]) == ("v1", False)
    assert gateway.chat(model="mine").status_code == 404
    assert gateway.chat(model="mine@v1").status_code == 200
    assert refusal(gateway.http.delete(f"{MINE}/live"))[0] == 409
    assert gateway.http.post(f"{MINE}/rollback").json()["live"] is True
    assert gateway.chat(model="mine").status_code == 200


def test_pins_leave_one_slot_for_the_rest(gateway: Attached) -> None:
    assert gateway.http.post(f"{MINE}/pin").json()["pinned"] is True
    assert gateway.http.get("/admin/v1/adapters").json()["data"][0]["pinned"] is True
    assert gateway.http.post(f"{MINE}/pin", json={"pinned": False}).json()["pinned"] is False


def test_a_pin_that_would_leave_no_slot_is_refused_with_the_numbers(tmp_path: Path) -> None:
    with gateway_with_versions(tmp_path, MockSettings(tokens=2), max_loras=1) as gateway:
        refused = gateway.http.post(f"{MINE}/pin")
        assert refused.status_code == 409
        assert "0 adapters are pinned and 0 may be" in refused.json()["error"]["message"]
        assert policy(gateway)["pinned"] is False


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/promote", {"version": "newest"}, 400, "version"),
        ("POST", "/promote", {"version": 9}, 404, None),
        ("POST", "/promote", {"version": 0}, 400, "version"),
        ("POST", "/promote", {"version": 2, "canary_percent": 0}, 400, "canary_percent"),
        ("POST", "/promote", {}, 400, "version"),
        ("POST", "/promote", {"version": 2, "percent": 5}, 400, "percent"),
        ("POST", "/canary", {"version": 2, "percent": 101}, 400, "percent"),
        ("POST", "/canary", {"version": 1, "percent": 10}, 409, None),
        ("POST", "/canary", {"version": 2, "percent": 10, "bounds": {"min_requests": 0}}, 400, "bounds.min_requests"),
        ("POST", "/shadow", {"version": 9, "percent": 10}, 404, None),
        ("DELETE", "/versions/v9", None, 404, None),
        ("POST", "/versions/v9/verify", None, 404, None),
    ],
)
def test_refusals_have_the_right_status_and_name_the_field(
    untouched: Attached, method: str, path: str, body: dict[str, Any] | None, status: int, param: str | None
) -> None:
    before = policy(untouched)
    answer = untouched.http.request(method, f"{MINE}{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert policy(untouched) == before


def test_an_unknown_name_is_not_found_everywhere(untouched: Attached) -> None:
    for method, path, body in (
        ("GET", "", None),
        ("POST", "/promote", {"version": 1}),
        ("POST", "/rollback", {}),
        ("POST", "/pin", {}),
        ("DELETE", "/canary", None),
        ("DELETE", "/live", None),
    ):
        answer = untouched.http.request(method, f"/admin/v1/adapters/nobody{path}", json=body)
        assert (method, path, answer.status_code) == (method, path, 404)


def test_the_log_can_be_asked_for_one_adapter_or_one_version(gateway: Attached) -> None:
    gateway.http.post(f"{MINE}/promote", json={"version": 2})
    newest = gateway.http.get("/admin/v1/audit?limit=1&subject=mine@v2").json()["data"]
    told = [(entry["action"], entry["subject"], entry["actor"]) for entry in newest]
    assert told == [("promote", "mine@v2", "admin")]
    assert gateway.http.get("/admin/v1/audit?subject=other").json()["data"] == []
