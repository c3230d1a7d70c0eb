"""`turntable usage` and the routes below /admin/v1/usage, over a gateway with a little traffic."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from gateway.cli.usage import app as usage_app
from gateway.clock import HOUR_US, now_us
from gateway.database import open_database
from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready
from tests.gateway.costs.ledger_rows import row, write_rows

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    data_dir = tmp_path_factory.mktemp("usage")
    settings = Settings(data_dir=data_dir)
    database = open_database(settings.database)
    names = [("acme", "k1", "tone"), ("acme", "k2", "tone"), ("other", "k3", None)]
    rows = [
        row(n, now_us() - n * HOUR_US, tenant=tenant, key_id=key, adapter=adapter, completion_tokens=10, model="=1+1")
        for n in range(3, 63)
        for tenant, key, adapter in (names[n % 3],)
    ]
    write_rows(database, rows)
    database.dispose()
    with serving(MockSettings(tokens=8)) as server, running_gateway(settings, server.url) as url:
        wait_until_ready(url)
        attached = Attached(url, server, data_dir)
        yield attached
        attached.http.close()


@pytest.fixture
def turntable_usage(gateway: Attached) -> Run:
    def run(*arguments: object) -> Result:
        environment = {"TURNTABLE_GATEWAY_URL": gateway.url, "TURNTABLE_ADMIN_KEY": KEY, "COLUMNS": "200"}
        return CliRunner().invoke(usage_app, list(map(str, arguments)), env=environment)

    return run


def test_usage_is_grouped_by_anything_filtered_and_printed_as_csv_and_json(turntable_usage: Run) -> None:
    told = json.loads(turntable_usage("--group-by", "tenant,key,adapter", "--json").stdout)["data"]
    assert [(one["tenant"], one["key"], one["adapter"], one["requests"]) for one in told] == [
        ("acme", "k1", "tone", 20),
        ("acme", "k2", "tone", 20),
        ("other", "k3", "base", 20),
    ]
    rows = list(csv.DictReader(turntable_usage("--group-by", "day", "--tenant", "acme", "--csv").stdout.splitlines()))
    assert sum(int(one["completion_tokens"]) for one in rows) == 400
    assert [one["day"] for one in rows] == sorted({one["day"] for one in rows})
    assert len(rows) >= 3
    (base,) = json.loads(turntable_usage("--adapter", "base", "--json").stdout)["data"]
    assert base["requests"] == 20
    assert "tone" in turntable_usage().stdout
    wrong = turntable_usage("--group-by", "colour")
    assert (wrong.exit_code, "Cannot group by 'colour'" in wrong.stderr) == (2, True)


def test_rows_are_exported_as_they_are_and_formulas_stay_text(turntable_usage: Run, tmp_path: Path) -> None:
    assert "60 rows" in turntable_usage("export", tmp_path / "all.jsonl").stdout
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [one["opened_us"] for one in rows] == sorted(one["opened_us"] for one in rows)
    assert {one["model"] for one in rows} == {"=1+1"}
    assert "20 rows" in turntable_usage("export", tmp_path / "other.csv", "--tenant", "other").stdout
    with (tmp_path / "other.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert {(one["tenant"], one["model"]) for one in found} == {("other", "'=1+1")}
    assert list(found[0]) == list(rows[0])
    refused = turntable_usage("export", tmp_path / "all.xlsx")
    assert (refused.exit_code, "must end in .jsonl or .csv" in refused.stderr) == (2, True)
    assert not list(tmp_path.glob("*.part"))
    missing = turntable_usage("export", tmp_path / "nowhere" / "all.csv")
    assert (missing.exit_code, "cannot be written" in missing.stderr) == (2, True)


def test_the_exit_code_says_whether_ledger_and_engine_agree(turntable_usage: Run, gateway: Attached) -> None:
    gateway.chat()
    agreed = turntable_usage("--reconcile")
    assert (agreed.exit_code, "1.000000" in agreed.stdout) == (0, True), agreed.output
    gateway.engine.generation_tokens += 1000
    apart = turntable_usage("--reconcile", "--json")
    assert apart.exit_code == 1
    (run,) = json.loads(apart.stdout)["data"]
    assert run["tokens"]["completion_tokens"] == {
        "ledger": 8,
        "engine": 1008,
        "ratio": 8 / 1008,
        "agreement": "outside",
    }
    gateway.engine.generation_tokens -= 1000


def test_rows_go_and_names_go_and_sums_stay(turntable_usage: Run, gateway: Attached) -> None:
    def requests(*filters: str) -> int:
        return sum(one["requests"] for one in json.loads(turntable_usage(*filters, "--json").stdout)["data"])

    before = requests()
    pruned = turntable_usage("prune", "--before", "2100-01-01")
    assert (pruned.exit_code, "rows deleted" in pruned.stdout) == (0, True), pruned.output
    assert requests() == before
    forgotten = turntable_usage("forget", "acme")
    assert (forgotten.exit_code, "2 keys now belong to forgotten-" in forgotten.stdout) == (0, True), forgotten.output
    assert (requests(), requests("--tenant", "acme")) == (before, 0)
    actions = [one["action"] for one in gateway.http.get("/admin/v1/audit").json()["data"]]
    assert {"prune", "forget"} <= set(actions)
    assert turntable_usage("forget", "acme").exit_code == 2


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "/rows"), ("GET", "/reconciliation"), ("POST", "/prune"), ("POST", "/forget")],
)
def test_usage_is_neither_read_nor_changed_without_a_key(gateway: Attached, method: str, path: str) -> None:
    answer = httpx.request(method, f"{gateway.url}/admin/v1/usage{path}", json={})
    assert answer.status_code == 401


def test_a_key_that_may_read_usage_reads_its_own_tenants_and_changes_nothing(gateway: Attached) -> None:
    made = gateway.http.post("/admin/v1/keys", json={"name": "reader", "tenant": "other", "scopes": ["usage"]})
    assert made.status_code == 201, made.text
    with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {made.json()['key']}"}) as reader:
        assert {one["tenant"] for one in reader.get("/admin/v1/usage?group_by=tenant").json()["data"]} == {"other"}
        rows = [json.loads(line) for line in reader.get("/admin/v1/usage/rows?tenant=default").text.splitlines()]
        assert {one["tenant"] for one in rows} <= {"other"}
        for path, body in (("prune", {"before": "2100-01-01"}), ("forget", {"tenant": "other"})):
            assert reader.post(f"/admin/v1/usage/{path}", json=body).status_code == 403
        assert reader.get("/admin/v1/usage/reconciliation").status_code == 403
