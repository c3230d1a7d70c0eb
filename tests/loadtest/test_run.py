"""Whole load tests against the mock engine."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from loadtest.collector import Collector, LiveTotals
from loadtest.errors import InvalidWorkloadError, ServerError
from loadtest.metrics import Slo
from loadtest.mock_engine import Fault, MockSettings, serving
from loadtest.promotions import Promoter, PromotionResult
from loadtest.records import RequestRecord
from loadtest.report import LoadReport
from loadtest.run import run_load
from loadtest.schedule import Plan
from loadtest.settings import PromotionPlan, RunSettings


async def report_on(settings: RunSettings) -> LoadReport:
    return LoadReport.of(settings, await run_load(settings, lambda record: None))


async def test_the_metrics_contain_the_configured_times() -> None:
    pace = MockSettings(ttft_ms=40, itl_ms=10, tokens=6)
    with serving(pace) as server:
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
    with serving(MockSettings(ttft_ms=30)) as server:
        settings = RunSettings(server.url, ("base",), requests=8, concurrency=1, rate_per_s=10_000)
        unsorted: list[RequestRecord] = []
        result = await run_load(settings, unsorted.append)
    records = sorted(unsorted, key=lambda record: record.sent_s)
    # One at a time, 30 ms each, all meant to leave within a few milliseconds: the last one waited for seven others.
    last = records[-1]
    assert last.sent_s - last.intended_s >= 7 * 0.030 - (last.intended_s - records[0].intended_s)
    assert LoadReport.of(settings, result).total.ttft is not None
    assert max(record.end_s - record.intended_s for record in records) >= 8 * 0.030 - last.intended_s


async def test_failed_requests_are_counted_and_do_not_stop_the_test() -> None:
    with serving(MockSettings(fault=Fault.ERROR_500)) as server:
        report = await report_on(RunSettings(server.url, ("base",), requests=5))
    assert report.total.errors == {"http_500": 5}
    assert (report.total.succeeded, report.total.requests_per_s, report.partial) == (0, 0.0, False)


async def test_a_usage_that_differs_from_the_chunks_is_reported() -> None:
    with serving(MockSettings(tokens=4, fault=Fault.WRONG_USAGE)) as server:
        total = (await report_on(RunSettings(server.url, ("base",), requests=3))).total
    assert (total.usage_above_chunks, total.usage_below_chunks, total.usage_missing) == (3, 0, 0)
    assert (total.completion_tokens, total.counted_chunks) == (15, 12)


async def test_the_key_is_sent_and_kept_out_of_the_report() -> None:
    with serving(MockSettings(api_key="tt-secret")) as server:
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
    with serving(MockSettings(api_key="right")) as server:
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


async def test_warm_up_asks_every_model_and_is_not_counted() -> None:
    with serving() as server:
        server.engine.adapters |= {"a": "a", "b": "b"}
        settings = RunSettings(server.url, ("base", "a", "b"), requests=6, warmup=2)
        report = await report_on(settings)
        assert server.engine.loads == 2
        asked = Counter(body["model"] for body in server.engine.received)
        assert asked == {"base": 2 + 2, "a": 2 + 2, "b": 2 + 2}
    assert report.total.requests == 6
    assert report.cold is None


async def test_without_warm_up_the_first_requests_are_cold_and_pay_for_the_load() -> None:
    with serving(MockSettings(load_ms=80)) as server:
        server.engine.adapters["a"] = "a"
        settings = RunSettings(server.url, ("a",), requests=6, concurrency=1, warmup=0)
        report = await report_on(settings)
    assert report.cold is not None
    assert report.warm is not None
    assert (report.cold.requests, report.warm.requests) == (1, 5)
    assert report.cold.ttft is not None
    assert report.cold.ttft.p50_ms >= 80


async def test_a_model_that_has_rested_is_cold_again() -> None:
    collector = Collector(LiveTotals.empty(Slo()), cold_after_s=10)
    seen = []
    for sent_s in (0.0, 5.0, 14.0, 40.0):
        record = RequestRecord(0, "a", sent_s, sent_s, end_s=sent_s)
        collector.leaving(record)
        collector.complete(record)
        seen.append(record.cold)
    assert seen == [True, False, False, True]


async def test_a_failed_warm_up_is_reported_and_the_test_goes_on() -> None:
    with serving(MockSettings(fault=Fault.ERROR_500, fault_share=0.5)) as server:
        report = await report_on(RunSettings(server.url, ("base",), requests=4, concurrency=1, warmup=2))
    assert list(report.warmup_failures) == ["base"]
    assert (report.total.succeeded, report.total.errors) == (2, {"http_500": 2})


async def test_several_processes_send_one_plan(tmp_path: Path) -> None:
    with serving() as server, (tmp_path / "records").open("w+b") as file:
        settings = RunSettings(server.url, ("base",), requests=31, processes=3, concurrency=4, rate_per_s=200)
        run = await run_load(settings, records=file)
        file.seek(0)
        records = [RequestRecord.from_line(line) for line in file]
    assert sorted(record.index for record in records) == list(range(31))
    in_plan_order = sorted(records, key=lambda record: record.index)
    assert [record.intended_s for record in in_plan_order] == list(islice(Plan.of(settings).offsets_s or (), 31))
    report = LoadReport.of(settings, run)
    assert (report.total.succeeded, report.client.processes) == (31, 3)
    assert report.total.completion_tokens == 31 * 16


async def test_a_test_of_some_seconds_ends_then() -> None:
    with serving() as server:
        settings = RunSettings(server.url, ("base",), rate_per_s=100, arrivals="constant", duration_s=0.3)
        report = await report_on(settings)
    assert report.total.requests == 30


async def test_exact_answers_and_traces_reach_the_server(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("at_s,prompt_tokens,output_tokens,adapter\n0,5,40,a\n0.01,6,3,\n")
    with serving() as server:
        server.engine.adapters["a"] = "a"
        report = await report_on(RunSettings(server.url, ("base",), trace=trace, arrivals="trace"))
        bodies = list(server.engine.received)[-2:]
    assert [(body["model"], body["max_tokens"], body["ignore_eos"]) for body in bodies] == [
        ("a", 40, True),
        ("base", 3, True),
    ]
    assert (report.total.prompt_tokens, report.total.completion_tokens) == (11, 43)


@asynccontextmanager
async def promoting(seen: list[dict[str, object]]) -> AsyncIterator[str]:
    """An admin API that promotes every version but the third."""

    async def promote(request: web.Request) -> web.Response:
        body = await request.json()
        seen.append({"name": request.match_info["name"], "key": request.headers["Authorization"], **body})
        if body["version"] == "v3":
            return web.json_response({"error": {"message": "Version 3 is quarantined."}}, status=409)
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/admin/v1/adapters/{name}/promote", promote)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield "http://{}:{}".format(*runner.addresses[0])
    await runner.cleanup()


class Ticks:
    """A clock that moves on by a second whenever it is read, and tells when it has come to `stop`."""

    def __init__(self, stop: int = 0) -> None:
        self.now = -1
        self.stop = stop
        self.stopped = asyncio.Event()

    def __call__(self) -> float:
        self.now += 1
        if self.now >= self.stop:
            self.stopped.set()
        return float(self.now)


async def test_versions_are_promoted_in_turn_until_the_load_ends() -> None:
    seen: list[dict[str, object]] = []
    async with promoting(seen) as admin_url:
        ticks = Ticks(stop=6)
        promotions = Promoter(PromotionPlan.parse("support=2,v3", 0.01, admin_url, "tt-admin"), ticks)
        async with promotions.running():
            await ticks.stopped.wait()
        promoted = len(seen)
    assert [asked["version"] for asked in seen[:3]] == ["v2", "v3", "v2"]
    assert {(asked["name"], asked["key"]) for asked in seen} == {("support", "Bearer tt-admin")}
    assert [(promotion.status, promotion.error) for promotion in promotions.done[:2]] == [
        (200, None),
        (409, "Version 3 is quarantined."),
    ]
    assert [(promotion.at_s, promotion.took_s) for promotion in promotions.done[:3]] == [
        (0.0, 1.0),
        (2.0, 1.0),
        (4.0, 1.0),
    ]
    assert len(seen) == promoted


async def test_a_gateway_that_cannot_be_reached_is_an_error_of_the_promotion(unused_tcp_port: int) -> None:
    ticks = Ticks(stop=2)
    promotions = Promoter(PromotionPlan.parse("a=1", 0.01, f"http://127.0.0.1:{unused_tcp_port}", None), ticks)
    async with promotions.running():
        await ticks.stopped.wait()
    assert promotions.done[0].status is None
    assert promotions.done[0].error


@pytest.mark.parametrize(
    ("sent_s", "end_s", "near"),
    [(1.0, 4.9, False), (4.0, 5.5, True), (5.5, 9.0, True), (6.9, 8.0, True), (7.1, 8.0, False)],
)
def test_requests_during_or_shortly_after_a_promotion_are_near_it(sent_s: float, end_s: float, near: bool) -> None:
    promotions = Promoter(None, Ticks(), [PromotionResult(2, at_s=5.0, took_s=1.0)])
    assert promotions.near(RequestRecord(0, "a", sent_s, sent_s, end_s)) is near


async def test_a_report_has_the_promotions_of_its_test_and_no_key() -> None:
    seen: list[dict[str, object]] = []
    with serving(MockSettings(ttft_ms=5)) as server:
        async with promoting(seen) as admin_url:
            promotions = PromotionPlan.parse("support=2", 0.1, admin_url, "tt-admin")
            report = await report_on(RunSettings(server.url, ("base",), duration_s=0.5, promotions=promotions))
    assert report.promotions
    assert report.near_promotion is not None
    assert "tt-admin" not in str(report.as_json())


@pytest.mark.parametrize("text", ["", "support", "support=", "=1", "support=x", "support=0"])
def test_promotions_of_no_sense_are_refused(text: str) -> None:
    with pytest.raises(InvalidWorkloadError, match="--promote must look like"):
        PromotionPlan.parse(text, 1.0, "http://127.0.0.1:1", None)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"arrivals": "weekly"}, "--arrivals must be one of"),
        ({"arrivals": "trace"}, "--arrivals trace needs --trace"),
        ({"trace_format": "csv"}, "--trace-format must be one of"),
        ({"rate_per_s": 1.0, "ramp": "1:2:3"}, "exclude each other"),
        ({"prompts": Path("p"), "prompt_words": "3"}, "--prompts excludes"),
        ({"models": ("a", "a")}, "names a model twice"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidWorkloadError, match=problem):
        RunSettings(**{"url": "http://127.0.0.1:1", "models": ("base",), **options})
