"""Whole load tests against the canned engine."""

import pytest

from loadtest.canned import CannedSettings, Fault, serving
from loadtest.errors import InvalidWorkloadError, ServerError
from loadtest.records import RequestRecord
from loadtest.report import Report
from loadtest.run import run_load
from loadtest.settings import RunSettings


async def report_on(settings: RunSettings) -> Report:
    return Report.of(settings, await run_load(settings, lambda record: None))


async def test_the_metrics_contain_the_configured_times() -> None:
    canned = CannedSettings(ttft_ms=40, itl_ms=10, tokens=6)
    with serving(canned) as server:
        total = (await report_on(RunSettings(server.url, ("base",), requests=12, concurrency=4))).total
    assert total.succeeded == 12
    assert total.ttft is not None
    assert total.e2e is not None
    assert total.itl is not None
    # The engine never answers early, so these hold on any machine, however slow.
    assert total.ttft.p50_ms >= 40
    assert total.e2e.p50_ms >= 40 + 5 * 10
    assert total.itl.count == 12 * 5
    assert (total.completion_tokens, total.counted_chunks) == (72, 72)


async def test_every_model_has_its_row_and_the_rows_add_up() -> None:
    with serving() as server:
        server.engine.adapters["support"] = "support"
        report = await report_on(RunSettings(server.url, ("base", "support"), requests=11, concurrency=3))
    assert sorted(row.requests for row in report.models.values()) == [5, 6]
    assert report.total.requests == 11
    assert report.total.completion_tokens == sum(row.completion_tokens for row in report.models.values())
    assert report.total.errors == {}


async def test_an_open_loop_counts_waiting_from_the_intended_time() -> None:
    with serving(CannedSettings(ttft_ms=30)) as server:
        settings = RunSettings(server.url, ("base",), requests=8, concurrency=1, rate_per_s=10_000)
        unsorted: list[RequestRecord] = []
        result = await run_load(settings, unsorted.append)
    records = sorted(unsorted, key=lambda record: record.sent_s)
    # One at a time, 30 ms each, all meant to leave within a few milliseconds: the last one waited for seven others.
    last = records[-1]
    assert last.sent_s - last.intended_s >= 7 * 0.030 - (last.intended_s - records[0].intended_s)
    assert Report.of(settings, result).total.ttft is not None
    assert max(record.end_s - record.intended_s for record in records) >= 8 * 0.030 - last.intended_s


async def test_failed_requests_are_counted_and_do_not_stop_the_test() -> None:
    with serving(CannedSettings(fault=Fault.ERROR_500)) as server:
        report = await report_on(RunSettings(server.url, ("base",), requests=5))
    assert report.total.errors == {"http_500": 5}
    assert (report.total.succeeded, report.total.requests_per_s, report.partial) == (0, 0.0, False)


async def test_a_usage_that_differs_from_the_chunks_is_reported() -> None:
    with serving(CannedSettings(tokens=4, fault=Fault.WRONG_USAGE)) as server:
        total = (await report_on(RunSettings(server.url, ("base",), requests=3))).total
    assert (total.usage_above_chunks, total.usage_below_chunks, total.usage_missing) == (3, 0, 0)
    assert (total.completion_tokens, total.counted_chunks) == (15, 12)


async def test_the_key_is_sent_and_kept_out_of_the_report() -> None:
    with serving(CannedSettings(api_key="tt-secret")) as server:
        report = await report_on(RunSettings(server.url, ("base",), requests=2, key="tt-secret"))
    assert report.total.succeeded == 2
    assert "tt-secret" not in str(report.as_json())


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_address_may_end_in_v1(suffix: str) -> None:
    with serving() as server:
        report = await report_on(RunSettings(server.url + suffix, ("base",), requests=1))
    assert report.total.succeeded == 1


async def test_a_wrong_key_an_unknown_model_and_a_dead_server_stop_the_test_before_it_starts(
    unused_tcp_port: int,
) -> None:
    with serving(CannedSettings(api_key="right")) as server:
        with pytest.raises(ServerError, match=r"refused the key \(401\): pass --key"):
            await report_on(RunSettings(server.url, ("base",), key="wrong"))
        with pytest.raises(ServerError, match="does not serve 'nope'; it serves base"):
            await report_on(RunSettings(server.url, ("base", "nope"), key="right"))
        assert not server.engine.received
    with pytest.raises(ServerError, match="cannot be reached"):
        await report_on(RunSettings(f"http://127.0.0.1:{unused_tcp_port}", ("base",)))


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://somewhere", ""])
def test_an_address_without_http_is_refused(url: str) -> None:
    with pytest.raises(InvalidWorkloadError, match="--url must look like"):
        RunSettings(url, ("base",))


def test_an_empty_model_name_is_refused() -> None:
    with pytest.raises(InvalidWorkloadError, match="--models needs"):
        RunSettings("http://127.0.0.1:8080", ("base", ""))
