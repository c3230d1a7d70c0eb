"""Usage summed up: closed hours and the ledger agree to the token and the microsecond, whatever happens to rows."""

from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, func, insert, select

from gateway.clock import DAY_US, HOUR_US
from gateway.core import Usage
from gateway.costs.request_price import RequestPrices
from gateway.engines.client import EngineUsage
from gateway.metering.reconcile.recovery import Recovery
from gateway.metering.tables import adapter_loads, engine_hours, usage_hours, usage_summed
from gateway.metering.usage_queries import SHORT_PROMPT
from gateway.metering.usage_summary import UsageSummary
from tests.gateway.costs.ledger_rows import row, write_rows
from tests.gateway.metering.random_usage import NOW, by_hand, random_rows, totals_of

TODAY = NOW // DAY_US * DAY_US


WINDOWS = [
    (0, NOW),
    (TODAY - DAY_US, TODAY),
    (NOW - 2 * DAY_US - 12_345, NOW - DAY_US + 67_891),
    (NOW - HOUR_US // 2, NOW),
    (TODAY - 30 * 60 * 10**6, TODAY - 20 * 60 * 10**6),
    (NOW - 10 * DAY_US, NOW - 9 * DAY_US),
]


def test_every_window_adds_up_as_by_hand(database: Engine) -> None:
    rows = random_rows(400, seed=7)
    write_rows(database, rows)
    summary = UsageSummary(database)
    for since, until in WINDOWS:
        totals, busy = by_hand(rows, since, until)
        window = summary.window(since, until)
        assert totals_of(window.sums) == totals
        assert window.busy_us == busy
        assert totals_of(summary.hourly(since, until)) == totals


def test_long_prompts_are_kept_apart_by_their_length_and_short_ones_are_not(database: Engine) -> None:
    lengths = [1, SHORT_PROMPT, SHORT_PROMPT + 1, 90_000, 90_000]
    write_rows(database, [row(n, NOW - 2 * HOUR_US, prompt_tokens=length) for n, length in enumerate(lengths)])
    sums = UsageSummary(database).window(0, NOW).sums
    assert {one.long_prompt: one.requests for one in sums} == {0: 2, SHORT_PROMPT + 1: 1, 90_000: 2}


def test_an_hour_stays_open_while_a_request_of_it_runs(database: Engine) -> None:
    hour = NOW // HOUR_US - 5
    write_rows(database, [row(1, hour * HOUR_US), row(2, (hour + 1) * HOUR_US, None), row(3, (hour + 2) * HOUR_US)])
    summary = UsageSummary(database)
    assert summary.close_hours() == hour + 1
    assert totals_of(summary.window(0, NOW).sums)["requests"] == 3


def test_rows_that_come_into_a_closed_hour_because_the_clock_was_set_back_are_counted(database: Engine) -> None:
    write_rows(database, [row(number, NOW - number * HOUR_US, prompt_tokens=1) for number in range(1, 40)])
    summary = UsageSummary(database)
    assert totals_of(summary.window(0, NOW).sums)["prompt_tokens"] == 39
    late = [row(100, NOW - 20 * HOUR_US + 1, took_us=3 * HOUR_US, prompt_tokens=1000)]
    late.append(row(101, NOW - 90 * HOUR_US, prompt_tokens=5000))
    write_rows(database, late)
    window = summary.window(0, NOW)
    assert totals_of(window.sums)["prompt_tokens"] == 6039
    assert window.busy_us == UsageSummary(database).window(0, NOW).busy_us
    assert sum(window.busy_us.values()) == 3 * HOUR_US + 37 * 10**6  # four of the others ran within the late one


def test_what_is_closed_is_read_from_the_sums_and_not_again_from_the_ledger(database: Engine) -> None:
    write_rows(database, [row(number, NOW - number * HOUR_US) for number in range(2, 50)])
    until = UsageSummary(database).close_hours()
    with database.connect() as connection:
        kept = connection.execute(select(func.sum(usage_hours.c.requests))).scalar_one()
        assert kept == connection.execute(select(usage_summed.c.requests)).scalar_one()
        assert kept >= 47
        assert connection.execute(select(func.max(engine_hours.c.hour))).scalar_one() < until


def test_adapter_loads_count_as_work_of_their_engine(database: Engine) -> None:
    load = {"at_us": NOW - HOUR_US, "load_us": 2 * 10**6, "engine": "engine-0", "adapter": "a"}
    with database.begin() as connection:
        connection.execute(insert(adapter_loads).values(load))
    write_rows(database, [row(1, NOW - HOUR_US + 10**6)])
    window = UsageSummary(database).window(0, NOW)
    assert sum(window.busy_us.values()) == 2 * 10**6  # the request ran while the adapter was loaded
    assert set(window.load_us.values()) == {2 * 10**6}


def test_an_empty_ledger_has_no_usage(database: Engine) -> None:
    window = UsageSummary(database).window(0, NOW)
    assert (window.sums, window.busy_us, window.load_us) == ([], {}, {})


async def test_tokens_that_are_recovered_after_a_crash_reach_an_hour_that_was_closed_without_them(
    database: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = (NOW // HOUR_US - 3) * HOUR_US + 50 * 60 * 10**6
    cut = {"state": "interrupted", "gateway": "g", "engine_run": "run-1", "prompt_tokens": 5, "evidence": "none"}
    write_rows(database, [row(1, opened, None, **cut)])
    write_rows(database, [row(2, opened, prompt_tokens=7), row(3, opened + HOUR_US, prompt_tokens=11)])
    summary = UsageSummary(database)
    closed = summary.close_hours()
    assert closed > opened // HOUR_US
    assert totals_of(summary.window(0, NOW).sums)["prompt_tokens"] == 23
    # One that stood still reads the question before the request, and knows nothing of it yet.
    answers: list[EngineUsage | Exception] = [
        KeyError("odd"),
        EngineUsage(Usage(0, 0, 0), 1),
        EngineUsage(Usage(900, 60, 100), 1),
    ]

    async def worked_on(_request_id: str) -> EngineUsage:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    engine = SimpleNamespace(name="engine-0", run="run-1", client=SimpleNamespace(worked_on=worked_on))
    recovery = Recovery(database, SimpleNamespace(ready=[engine]), "g", RequestPrices())  # type: ignore[arg-type]
    monkeypatch.setattr("gateway.metering.reconcile.recovery.now_us", lambda: opened + 16 * 60 * 10**6)
    with pytest.raises(KeyError):
        await recovery.run()
    for _ in range(2):
        await recovery.run()  # what failed or was not known is asked again
    totals, busy = totals_of(summary.window(0, NOW).sums), summary.window(0, NOW).busy_us
    assert (totals["prompt_tokens"], totals["cached_tokens"], totals["completion_tokens"]) == (918, 100, 60)
    assert summary.close_hours() == closed
    assert totals_of(summary.window(0, NOW).sums) == totals == totals_of(UsageSummary(database).hourly(0, NOW))
    assert summary.window(0, NOW).busy_us == busy
