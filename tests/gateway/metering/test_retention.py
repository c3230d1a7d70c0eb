"""Rows that are deleted and tenants that are forgotten: no sum changes."""

from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select

from adapters.audit import read_entries
from gateway.clock import DAY_US, HOUR_US
from gateway.engines.client import EngineCounters
from gateway.errors import InvalidRequestError
from gateway.metering import usage_ledger
from gateway.metering.reconcile.engine_counters import CountedTokens, CounterReading, EngineCounterStore
from gateway.metering.reconcile.ledger_totals import LedgerTotals, keep_pruned_totals
from gateway.metering.reconcile.reconciliation import Reconciliation
from gateway.metering.reconcile.verdict import ReconcileAgreement
from gateway.metering.retention import Retention, TenantErasure
from gateway.metering.tables import usage_hours
from gateway.metering.usage_summary import UsageSummary
from tests.gateway.costs.ledger_rows import row, write_rows
from tests.gateway.metering.random_usage import NOW, by_hand, random_rows, totals_of

RUN = "1764000000.000001"


def retention(database: Engine) -> tuple[UsageSummary, Retention]:
    summary = UsageSummary(database)
    return summary, Retention(database, summary, keep_pruned_totals)


def rows_left(database: Engine) -> int:
    with database.connect() as connection:
        return connection.execute(select(func.count()).select_from(usage_ledger)).scalar_one()


def test_sums_and_busy_times_stay_when_rows_are_deleted_step_by_step(database: Engine) -> None:
    rows = random_rows(400, seed=11)
    write_rows(database, rows)
    summary, keeper = retention(database)
    totals, busy = by_hand(rows, 0, NOW)
    before = {one: n for one, n in summary.window(0, NOW).busy_us.items()}
    assert (totals_of(summary.window(0, NOW).sums), before) == (totals, busy)
    for days in (2, 1, 0):
        assert keeper.prune(NOW - days * DAY_US) > 0
        window = summary.window(0, NOW)
        assert totals_of(window.sums) == totals
        assert window.busy_us == busy
    assert keeper.prune(NOW) == 0
    assert rows_left(database) < 20, "what is younger than the last closed hour stays"
    day = (NOW // DAY_US - 1) * DAY_US
    assert totals_of(summary.window(day, day + DAY_US).sums) == by_hand(rows, day, day + DAY_US)[0]
    assert totals_of(UsageSummary(database).hourly(0, NOW)) == totals
    assert summary.first_us() == min(one["opened_us"] for one in rows) // HOUR_US * HOUR_US


def test_a_row_that_comes_after_its_hour_was_deleted_counts_at_once_and_is_kept_by_the_next_deletion(
    database: Engine,
) -> None:
    write_rows(database, [row(number, NOW - number * HOUR_US, completion_tokens=1) for number in range(2, 60)])
    summary, keeper = retention(database)
    assert keeper.prune(NOW - DAY_US) > 0
    write_rows(database, [row(100, NOW - 50 * HOUR_US + 7, completion_tokens=1000)])
    assert totals_of(summary.window(0, NOW).sums)["completion_tokens"] == 1058
    assert keeper.prune(NOW - DAY_US) == 1
    assert totals_of(summary.window(0, NOW).sums)["completion_tokens"] == 1058


def test_a_lost_row_that_is_settled_after_its_hour_was_summed_up_is_summed_again(database: Engine) -> None:
    lost = row(1, NOW - 5 * HOUR_US, None, state="interrupted", completion_tokens=3)
    write_rows(database, [lost, row(2, NOW - 4 * HOUR_US, completion_tokens=1)])
    summary = UsageSummary(database)
    assert totals_of(summary.window(0, NOW).sums) | {"unsettled": 1} == totals_of(summary.window(0, NOW).sums)
    with database.begin() as connection:
        values = {"state": "settled", "settled_us": NOW, "completion_tokens": 9}
        connection.execute(usage_ledger.update().where(usage_ledger.c.request_id == "req_1").values(values))
    sums = totals_of(summary.window(0, NOW).sums)
    assert (sums["unsettled"], sums["completion_tokens"]) == (0, 10)


def test_deleted_rows_still_count_when_the_ledger_is_held_against_the_engine(database: Engine) -> None:
    counts = EngineCounterStore(database, "process")
    first = NOW - 40 * HOUR_US
    counts.record("engine-0", CounterReading(first, first, EngineCounters(1000, 0, 1000, RUN)))
    fields: dict[str, Any] = {"engine_run": RUN, "prompt_tokens": 5, "completion_tokens": 7, "choices": 2}
    write_rows(database, [row(number, NOW - number * HOUR_US, **fields) for number in range(2, 32)])
    counts.record("engine-0", CounterReading(NOW, NOW, EngineCounters(1300, 0, 1210, RUN)))
    reconciliation = Reconciliation(database, counts, lambda: None)
    _, keeper = retention(database)
    for _ in range(2):
        (judgement,) = reconciliation.reconcile_all(0)
        assert judgement.agreement is ReconcileAgreement.AGREES
        assert [(one.ledger, one.engine) for one in judgement.kinds] == [(300, 300), (0, 0), (210, 210)]
        keeper.prune(NOW - 12 * HOUR_US)
    assert judgement.run.pruned_rows > 0
    assert judgement.run.pruned.completion_tokens == 7 * judgement.run.pruned_rows
    assert isinstance(judgement.booked, LedgerTotals)
    assert judgement.run.pruned != CountedTokens()


def test_a_forgotten_tenant_is_nowhere_and_its_sums_are_still_there(database: Engine) -> None:
    choose = Random(3)
    rows = [
        row(n, NOW - choose.randrange(1, 30) * HOUR_US, tenant=tenant, key_id=f"{tenant}-{n % 3}", completion_tokens=n)
        | {"client_request_id": f"{tenant}'s own"}
        for n, tenant in enumerate(["acme", "other"] * 30)
    ]
    write_rows(database, rows)
    summary, keeper = retention(database)
    keeper.prune(NOW - DAY_US)
    before = totals_of(summary.window(0, NOW).sums)
    forgotten = TenantErasure(database, lambda: None).erase("acme", actor="k_admin")
    sums = summary.window(0, NOW).sums
    assert totals_of(sums) == before
    assert {one.tenant for one in sums} == {"other", forgotten.pseudonym}
    assert len({one.key_id for one in sums if one.tenant == forgotten.pseudonym}) == forgotten.keys == 3
    mine = [one for one in rows if one["tenant"] == "acme"]
    kept = [one for one in sums if one.tenant == forgotten.pseudonym]
    assert totals_of(kept)["completion_tokens"] == sum(one["completion_tokens"] for one in mine)
    with database.connect() as connection:
        everything = repr([connection.execute(select(table)).all() for table in (usage_ledger, usage_hours)])
        (entry,) = read_entries(connection, 10, None)
    assert "acme" not in everything
    assert (entry["action"], entry["subject"], entry["actor"]) == ("forget", forgotten.pseudonym, "k_admin")
    assert "acme" not in repr(entry)


@pytest.mark.parametrize(("tenant", "why"), [("nobody", "no usage of a tenant 'nobody'"), ("turntable", "itself")])
def test_who_has_no_usage_or_is_the_gateway_cannot_be_forgotten(database: Engine, tenant: str, why: str) -> None:
    with database.begin() as connection:
        connection.execute(insert(usage_ledger).values(row(1, NOW, tenant="turntable", key_id="turntable")))
    with pytest.raises(InvalidRequestError, match=why):
        TenantErasure(database, lambda: None).erase(tenant, actor="admin")
    assert rows_left(database) == 1
