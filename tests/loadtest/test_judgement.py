"""What makes a test invalid, a request good, a share fair, and a change more than noise."""

import pytest

from loadtest.client_saturation import ClientLoad, client_bound
from loadtest.comparison import compare
from loadtest.metrics import Slo, jain, summarise
from loadtest.records import RequestRecord
from loadtest.report import LevelCost
from loadtest.statistics import Distribution, MeanEstimate, difference, t_quantile


def distribution(p50_ms: float = 1, p90_ms: float = 1, p99_ms: float = 1, count: int = 1000) -> Distribution:
    return Distribution(count, p50_ms, p50_ms, p90_ms, p90_ms, p99_ms, p99_ms)


def client(cpu_share: float = 0.1) -> ClientLoad:
    return ClientLoad(1, cpu_share, cpu_share, None)


def record(first_ms: float, gaps_ms: tuple[float, ...] = (), error: str | None = None) -> RequestRecord:
    chunk_s = [first_ms / 1000]
    for gap_ms in gaps_ms:
        chunk_s.append(chunk_s[-1] + gap_ms / 1000)
    return RequestRecord(0, "base", 0.0, 0.0, end_s=chunk_s[-1], chunk_s=chunk_s, error=error)


def test_a_busy_client_makes_a_test_invalid_unless_it_was_too_short_to_tell() -> None:
    (reason,) = client_bound(client(0.95), None, None, over_s=5)
    assert "95% of a core" in reason
    assert client_bound(client(0.95), None, None, over_s=0.5) == []
    assert client_bound(client(0.85), None, None, over_s=5) == []


def test_a_late_client_makes_a_test_invalid_unless_it_is_little_beside_the_ttft() -> None:
    assert client_bound(client(), distribution(p99_ms=11), distribution(100), 5)
    assert client_bound(client(), distribution(p99_ms=9), distribution(100), 5) == []
    assert client_bound(client(), distribution(p99_ms=11), distribution(1000), 5) == []


def test_one_hiccup_among_few_requests_does_not_make_a_test_invalid() -> None:
    assert client_bound(client(), distribution(p99_ms=90, count=60), None, 5) == []
    assert client_bound(client(), distribution(p90_ms=90, p99_ms=99, count=60), None, 5)


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (Slo(), 3),
        (Slo(ttft_ms=50), 2),
        (Slo(itl_ms=20), 2),
        (Slo(e2e_ms=100), 2),
        (Slo(tpot_ms=12), 1),
        (Slo(ttft_ms=50, itl_ms=20, tpot_ms=12, e2e_ms=100), 0),
    ],
)
def test_good_requests_keep_every_limit_and_failed_ones_never_do(slo: Slo, good: int) -> None:
    records = [record(20, (10, 30)), record(80, (10, 11)), record(40, (13, 13)), record(1, (1,), error="http_429")]
    summary = summarise(records, 2.0, slo)
    assert (summary.requests, summary.good, summary.good_per_s) == (4, good, good / 2)


def test_an_answer_without_any_text_does_not_keep_a_limit_on_ttft() -> None:
    silent = RequestRecord(0, "base", 0.0, 0.0, end_s=0.01)
    assert summarise([silent], 1.0).good == 1
    assert summarise([silent], 1.0, Slo(ttft_ms=50)).good == 0


def test_failed_and_late_requests_are_paid_for_by_the_good_ones() -> None:
    summary = summarise([record(20, (1, 1)), record(900, (1,)), record(1, error="timeout")], 36.0, Slo(ttft_ms=50))
    cost = LevelCost.of(summary, over_s=36.0, usd_per_hour=10.0)
    assert cost.usd == pytest.approx(0.1)
    assert cost.per_request == pytest.approx(0.05)
    assert cost.per_good_request == pytest.approx(0.1)
    assert cost.per_million_output_tokens == pytest.approx(0.1 / 5e-6)


def test_without_any_answer_there_is_no_price_per_request() -> None:
    cost = LevelCost.of(summarise([record(1, error="timeout")], 9.0), 9.0, 10.0)
    assert (cost.per_request, cost.per_good_request, cost.per_million_tokens) == (None, None, None)


def test_jain_is_one_for_equals_and_one_nth_for_a_monopoly() -> None:
    assert jain([3, 3, 3]) == pytest.approx(1)
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
    assert (jain([]), jain([0, 0])) == (None, None)


@pytest.mark.parametrize(("degrees", "t"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (10, 2.2281), (1000, 1.9623)])
def test_t_quantiles_are_those_of_the_tables(degrees: int, t: float) -> None:
    assert t_quantile(0.95, degrees) == pytest.approx(t, rel=1e-3)


def test_an_interval_needs_repeats() -> None:
    assert MeanEstimate.of([5.0]) == MeanEstimate(5.0, None, 1)
    # 95 %: 4.303 x 1 / sqrt(3).
    assert MeanEstimate.of([4.0, 5.0, 6.0]).half_width == pytest.approx(2.484, rel=1e-3)
    assert difference([1.0], [1.0, 2.0]) is None
    assert difference([1.0, 1.0], [2.0, 2.0]) == (1.0, 0.0)


def study(*ttft_p50_ms: float, verdict: str = "valid", max_tokens: int = 8) -> dict[str, object]:
    reports = [{"settings": {"max_tokens": max_tokens}, "total": {"ttft": {"p50_ms": value}}} for value in ttft_p50_ms]
    return {"verdict": verdict, "levels": [{"label": "run", "reports": reports}]}


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((10.0, 11.0, 12.0), (10.5, 11.5, 12.0), "noise"),
        ((10.0, 10.1, 10.2), (12.0, 12.1, 12.2), "worse"),
        ((12.0, 12.1, 12.2), (10.0, 10.1, 10.2), "better"),
        ((10.0,), (12.0,), "unknown"),
    ],
)
def test_a_change_counts_only_beyond_the_noise_of_repeats(
    before: tuple[float, ...], after: tuple[float, ...], verdict: str
) -> None:
    comparison = compare(study(*before), study(*after))
    assert [change.verdict for change in comparison.changes] == [verdict]
    assert comparison.verdict == verdict
    assert bool(comparison.warnings) == (verdict == "unknown")


def test_an_unfair_pair_is_said_to_be_one() -> None:
    comparison = compare(study(1.0, 1.0), study(1.0, 1.0, verdict="INVALID: client-bound", max_tokens=9))
    assert comparison.warnings == [
        "The second report is INVALID: client-bound.",
        "The tests differ in max_tokens.",
    ]
