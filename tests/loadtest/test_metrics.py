"""The arithmetic of the metrics, on records written by hand."""

import pytest

from loadtest.metrics import duration_s, e2e_ms, itl_ms, output_tokens, summarise, tpot_ms, ttft_ms
from loadtest.records import INTERRUPTED, RequestRecord
from loadtest.statistics import Distribution


def answered(intended_s: float = 1.0, sent_s: float = 1.5, tokens: int | None = 5) -> RequestRecord:
    return RequestRecord(
        index=0,
        model="base",
        intended_s=intended_s,
        sent_s=sent_s,
        end_s=4.25,
        status=200,
        chunk_s=[2.0, 2.25, 3.0, 4.0],
        empty_chunks=1,
        prompt_tokens=7,
        completion_tokens=tokens,
    )


def failed(kind: str) -> RequestRecord:
    return RequestRecord(index=1, model="base", intended_s=0.0, sent_s=0.0, end_s=9.0, error=kind)


def test_latencies_count_from_the_intended_send_time_not_from_the_real_one() -> None:
    record = answered(intended_s=1.0, sent_s=1.5)
    assert ttft_ms(record) == 1000.0
    assert e2e_ms(record) == 3250.0
    delay = summarise([record], 1.0).send_delay
    assert delay is not None
    assert delay.max_ms == 500.0


def test_itl_is_the_gaps_between_chunks_with_text() -> None:
    assert itl_ms(answered()) == [250.0, 750.0, 1000.0]


def test_tpot_divides_by_the_tokens_after_the_first() -> None:
    assert tpot_ms(answered(tokens=5)) == 500.0
    assert tpot_ms(answered(tokens=9)) == 250.0


def test_one_token_has_no_tpot() -> None:
    record = answered(tokens=1)
    record.chunk_s = [2.0]
    assert tpot_ms(record) is None


def test_an_answer_without_text_has_no_ttft() -> None:
    record = answered()
    record.chunk_s = []
    assert ttft_ms(record) is None
    assert summarise([record], 1.0).ttft is None


def test_chunks_stand_in_for_a_missing_usage_and_are_reported() -> None:
    record = answered(tokens=None)
    summary = summarise([record], 1.0)
    assert output_tokens(record) == 5
    assert (summary.completion_tokens, summary.usage_missing) == (5, 1)


@pytest.mark.parametrize(("claimed", "below", "above"), [(3, 1, 0), (4, 0, 0), (5, 0, 0), (6, 0, 1)])
def test_usage_is_checked_against_the_counted_chunks(claimed: int, below: int, above: int) -> None:
    summary = summarise([answered(tokens=claimed)], 1.0)
    assert (summary.usage_below_chunks, summary.usage_above_chunks) == (below, above)
    assert summary.completion_tokens == claimed


def test_failures_are_counted_by_kind_and_kept_out_of_the_latencies() -> None:
    records = [answered(), failed("http_503"), failed("timeout"), failed("http_503")]
    summary = summarise(records, 2.0)
    assert (summary.requests, summary.succeeded, summary.failed) == (4, 1, 3)
    assert summary.errors == {"http_503": 2, "timeout": 1}
    assert summary.e2e is not None
    assert summary.e2e.count == 1
    assert (summary.requests_per_s, summary.output_tokens_per_s) == (0.5, 2.5)


def test_interrupted_requests_are_neither_answered_nor_failed() -> None:
    summary = summarise([answered(), failed(INTERRUPTED)], 1.0)
    assert (summary.succeeded, summary.failed, summary.unfinished) == (1, 0, 1)
    assert summary.errors == {}


def test_percentiles_interpolate_between_samples() -> None:
    distribution = Distribution.of([float(value) for value in range(1, 102)])
    assert distribution == Distribution(count=101, mean_ms=51, p50_ms=51, p90_ms=91, p95_ms=96, p99_ms=100, max_ms=101)
    assert Distribution.of([]) is None


def test_the_duration_runs_from_the_first_intended_time_to_the_last_end() -> None:
    assert duration_s([answered(intended_s=1.0), failed("timeout")]) == 9.0
    assert duration_s([answered(intended_s=1.0)]) == 3.25
    assert duration_s([]) == 0.0


def test_no_records_make_an_empty_summary() -> None:
    summary = summarise([], 0.0)
    assert (summary.requests, summary.requests_per_s, summary.e2e) == (0, 0.0, None)


def test_the_delay_of_a_request_is_its_lag_and_its_queueing() -> None:
    record = answered(intended_s=1.0, sent_s=1.5)
    record.lag_s = 0.125
    summary = summarise([record], 1.0)
    assert summary.lag is not None
    assert summary.queueing is not None
    assert (summary.lag.max_ms, summary.queueing.max_ms) == (125.0, 375.0)
