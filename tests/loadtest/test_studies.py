"""Sweeps, the search for capacity, mixes and repeats, over a server that is arithmetic."""

import asyncio
from dataclasses import replace

import pytest

from loadtest.capacity import Bracket, ProbeOutcome, SloLimits, bracket_capacity, find_capacity
from loadtest.client_saturation import ClientLoad
from loadtest.collector import LiveTotals
from loadtest.records import RequestRecord
from loadtest.report import LoadReport
from loadtest.run import LoadRun, Provenance
from loadtest.settings import RunSettings
from loadtest.study import Study, compare_mixes, geometric, sweep

SETTINGS = RunSettings("http://127.0.0.1:1", ("base",), usd_per_hour=3.6)


class Arithmetic:
    """Answers up to `most_per_s`; TTFT grows with the load, and everything fails at `deadly_per_s`."""

    def __init__(
        self,
        most_per_s: float = 1000,
        deadly_per_s: float = 1e9,
        client_most_per_s: float = 1e9,
        client_lag_ms: float = 0,
    ) -> None:
        self.most_per_s = most_per_s
        self.deadly_per_s = deadly_per_s
        self.client_most_per_s = client_most_per_s
        self.client_lag_ms = client_lag_ms
        self.asked: list[tuple[str, float, int]] = []

    async def measure(self, settings: RunSettings, label: str) -> LoadReport:
        rate = settings.rate_per_s or float(settings.concurrency or 0)
        self.asked.append((label, rate, settings.run))
        answered = min(rate, self.most_per_s) / len(settings.models)
        ttft_s = rate / 1000
        totals = LiveTotals.empty(settings.slo)
        for index in range(20 + int(5 * answered)):
            at_s = index / answered
            record = RequestRecord(index, "base", at_s, at_s, at_s + ttft_s, 200, [at_s + ttft_s])
            record.lag_s = self.client_lag_ms / 1000
            totals.add(record)
            if rate >= self.deadly_per_s:
                totals.add(RequestRecord(index, "base", at_s, at_s, at_s, 503, error="http_503"))
        cpu_share = 0.99 if rate > self.client_most_per_s else 0.1
        return LoadReport.of(
            settings, LoadRun(totals, ClientLoad(1, 0.1, cpu_share, None), False, Provenance.of_records(()))
        )


def swept(server: Arithmetic, rates: list[float]) -> Study:
    def with_load(rate: float) -> RunSettings:
        return replace(SETTINGS, rate_per_s=rate)

    return asyncio.run(sweep(iter(rates), with_load, "req/s", 1, server.measure))


def test_a_sweep_ends_where_more_load_brings_no_more_answers() -> None:
    study = swept(Arithmetic(most_per_s=60), [10, 20, 40, 80, 160])
    assert [level.load for level in study.levels] == [10, 20, 40, 80, 160]
    assert study.conclusion.startswith("Saturated: at most")
    assert "at 80 req/s; 160 req/s brought no more" in study.conclusion


def test_a_sweep_ends_where_the_client_gives_out_and_only_that_level_is_invalid() -> None:
    study = swept(Arithmetic(client_most_per_s=25), [10, 20, 40, 80])
    assert [level.is_invalid for level in study.levels] == [False, False, True]
    assert "The load tester is saturated at 40 req/s" in study.conclusion
    assert study.verdict == "valid"


def test_a_sweep_that_never_saturates_says_so() -> None:
    study = swept(Arithmetic(), [10, 20])
    assert "may be able to do more" in study.conclusion


def test_cheaper_and_slower_go_together_up_to_saturation() -> None:
    study = swept(Arithmetic(), list(geometric(10, 2, 4)))
    reports = [level.reports[0] for level in study.levels]
    costs = [report.cost.per_request for report in reports if report.cost and report.cost.per_request]
    assert len(costs) == 4
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("capacity", [0.3, 1.0, 7.0, 100.0])
async def test_bisection_closes_in_on_the_capacity(capacity: float) -> None:
    probes: list[float] = []

    async def probe(rate: float) -> ProbeOutcome:
        probes.append(rate)
        return ProbeOutcome.WITHIN if rate <= capacity else ProbeOutcome.BEYOND

    found = await bracket_capacity(probe, start=1.0, tolerance=0.05, most_probes=20)
    assert found.is_settled
    assert found.within is not None
    assert found.beyond is not None
    assert found.within <= capacity < found.beyond <= found.within * 1.05
    assert len(probes) <= 14


async def test_a_probe_without_an_answer_ends_the_search_unsettled() -> None:
    async def probe(rate: float) -> ProbeOutcome:
        return ProbeOutcome.WITHIN if rate < 4 else ProbeOutcome.UNKNOWN

    assert await bracket_capacity(probe, 1.0, 0.1, 20) == Bracket(2.0, None, is_settled=False)


async def test_too_few_probes_leave_a_wide_interval_that_is_called_so() -> None:
    async def probe(rate: float) -> ProbeOutcome:
        return ProbeOutcome.WITHIN if rate <= 100 else ProbeOutcome.BEYOND

    assert await bracket_capacity(probe, 1.0, 0.01, 9) == Bracket(96.0, 128.0, is_settled=False)


def capacity(server: Arithmetic, limits: SloLimits) -> tuple[Study, Bracket]:
    return asyncio.run(find_capacity(SETTINGS, limits, 10.0, 0.1, 14, server.measure))


def test_the_capacity_is_where_a_limit_breaks_and_says_which() -> None:
    # TTFT in ms is the rate.
    study, bracket = capacity(Arithmetic(most_per_s=1e6), SloLimits(p99_ttft_ms=50))
    assert bracket.within is not None
    assert 50 / 1.1 <= bracket.within <= 50
    assert "p99 TTFT" in study.conclusion
    assert "(limit 50 ms)" in study.conclusion
    assert [level.load for level in study.levels] == sorted(level.load or 0 for level in study.levels)


def test_failures_beyond_their_limit_end_the_capacity_too() -> None:
    study, bracket = capacity(Arithmetic(deadly_per_s=30), SloLimits(p99_ttft_ms=1e6))
    assert bracket.beyond is not None
    assert 30 <= bracket.beyond <= 33
    assert "50.0% failed (limit 1.0%)" in study.conclusion


def test_where_the_client_gives_out_the_capacity_is_a_lower_bound() -> None:
    server = Arithmetic(most_per_s=1e6, client_most_per_s=30, client_lag_ms=20)
    # TTFT in ms is the rate: 40 ms would be beyond, but the client may be late by half of that.
    study, bracket = capacity(server, SloLimits(p99_ttft_ms=35))
    assert bracket == Bracket(20, None, is_settled=False)
    assert "at 40 the load tester was saturated" in study.conclusion


def test_a_late_client_is_no_excuse_for_more_than_its_lateness() -> None:
    server = Arithmetic(most_per_s=1e6, client_most_per_s=30, client_lag_ms=2)
    _, bracket = capacity(server, SloLimits(p99_ttft_ms=35))
    assert bracket.within is not None
    assert bracket.within <= 35
    assert bracket.beyond == 40


def test_limits_kept_in_spite_of_a_late_client_are_kept() -> None:
    server = Arithmetic(most_per_s=1e6, client_most_per_s=30, client_lag_ms=20)
    _, bracket = capacity(server, SloLimits(p99_ttft_ms=100))
    assert bracket.within is not None
    assert bracket.within >= 80


def test_repeats_have_their_own_requests_and_give_intervals() -> None:
    server = Arithmetic()
    settings = replace(SETTINGS, rate_per_s=10.0)
    study = asyncio.run(compare_mixes([("base",)], settings, 3, server.measure))
    assert [run for _, _, run in server.asked] == [0, 1, 2]
    estimate = study.as_json()["levels"][0]["estimates"]["total.ttft.p50_ms"]
    assert (estimate["repeats"], estimate["half_width"]) == (3, pytest.approx(0, abs=1e-6))


def test_base_one_and_many_adapters_are_compared_in_one_study() -> None:
    settings = replace(SETTINGS, rate_per_s=200.0)
    mixes = [("base",), ("a",), ("a", "b")]
    study = asyncio.run(compare_mixes(mixes, settings, 1, Arithmetic(most_per_s=100).measure))
    assert [level.label for level in study.levels] == ["base", "a", "2 models"]
    assert study.conclusion.startswith("Answered per second, of what base had: a 100%, 2 models 5")
