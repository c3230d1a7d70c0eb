"""Whether a server keeps up: queues of known speed, in arithmetic are known for what they are."""

import asyncio
import heapq
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from loadtest.backlog import LoadTimeline
from loadtest.capacity import ProbeOutcome, SloLimits, find_capacity
from loadtest.client_saturation import ClientLoad
from loadtest.collector import LiveTotals
from loadtest.mock_engine import MockSettings, serving
from loadtest.records import RequestRecord
from loadtest.report import LoadReport
from loadtest.run import LoadRun, Provenance, run_load
from loadtest.schedule import Plan
from loadtest.settings import RunSettings
from loadtest.study import sweep

ANY_TTFT = SloLimits(p99_ttft_ms=60_000)
SETTINGS = RunSettings("http://127.0.0.1:1", ("base",), duration_s=15.0)


class Queue:
    """A server of some places, each of which takes the same time for every request, first come first served."""

    def __init__(self, places: int, service_s: float, fills_up_s: float = 0.0) -> None:
        self.places, self.service_s, self.fills_up_s = places, service_s, fills_up_s
        self.loads: Counter[float] = Counter()

    @property
    def per_s(self) -> float:
        return self.places / self.service_s

    def records(self, settings: RunSettings) -> list[RequestRecord]:
        free_s, records = [0.0] * self.places, []
        plan = Plan.of(settings)
        for spec, at_s in zip(plan.specs, plan.offsets_s or (), strict=False):
            # As a batch fills up, tokens come more slowly, up to the pace of the full one.
            took_s = self.service_s * (min(1.0, 0.5 + at_s / self.fills_up_s / 2) if self.fills_up_s else 1.0)
            begin_s = max(at_s, heapq.heappop(free_s))
            end_s = begin_s + took_s
            heapq.heappush(free_s, end_s)
            records.append(RequestRecord(spec.index, "base", at_s, at_s, end_s, 200, [begin_s + took_s / 2]))
        return records

    async def measure(self, settings: RunSettings, label: str) -> LoadReport:
        self.loads[settings.rate_per_s or 0.0] += 1
        totals = LiveTotals.empty(settings.slo)
        for record in self.records(settings):
            totals.add(record)
        run = LoadRun(totals, ClientLoad(1, 0.1, 0.1, None), False, Provenance.of_records(("base",)))
        return LoadReport.of(settings, run)


def found(queue: Queue, settings: RunSettings, start: float = 1.0) -> float:
    study, bracket = asyncio.run(find_capacity(settings, ANY_TTFT, start, 0.1, 20, queue.measure))
    assert bracket.is_settled, study.conclusion
    assert study.capacity is not None
    within, saturated = study.capacity["within_per_s"], study.capacity["saturated_per_s"]
    assert within is not None
    assert saturated is not None
    assert within <= saturated <= queue.per_s * 1.05
    assert study.conclusion.startswith(f"{within:.4g} requests per second are within the limits, ")
    return float(within)


@pytest.mark.parametrize(("places", "service_s"), [(4, 1.0), (4, 0.1), (1, 0.05), (64, 4.0)])
def test_an_even_load_finds_no_more_than_the_server_does_and_hardly_less(places: int, service_s: float) -> None:
    queue = Queue(places, service_s)
    assert 0.9 * queue.per_s <= found(queue, replace(SETTINGS, arrivals="constant")) <= queue.per_s * 1.001


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("places", "service_s"), [(4, 0.1), (16, 0.25)])
def test_a_poisson_load_finds_no_more_than_the_server_does_and_hardly_less(
    places: int, service_s: float, seed: int
) -> None:
    queue = Queue(places, service_s)
    assert 0.85 * queue.per_s <= found(queue, replace(SETTINGS, seed=seed)) <= queue.per_s * 1.005


def test_a_server_of_four_a_second_does_not_pass_at_five() -> None:
    queue = Queue(4, 1.0)
    settings = replace(SETTINGS, rate_per_s=5.0, arrivals="constant", exact_offer=True)
    report = asyncio.run(queue.measure(settings, ""))
    assert ANY_TTFT.broken_by(report) == []
    assert ANY_TTFT.outcome(report) is ProbeOutcome.BEYOND
    assert report.backlog is not None
    assert report.backlog.answered_per_s == pytest.approx(4.0, rel=0.01)
    assert report.backlog.left_behind == pytest.approx(0.25, rel=0.1)
    assert report.backlog.in_flight_at_end >= 75 - 4 * 15
    (reason,) = ANY_TTFT.reasons(report)
    assert reason.startswith("the queue grew (4.00")


def test_a_server_that_only_fills_up_at_the_start_keeps_up() -> None:
    queue = Queue(64, 2.0, fills_up_s=2.0)
    report = asyncio.run(queue.measure(replace(SETTINGS, rate_per_s=20.0, exact_offer=True), ""))
    assert report.backlog is not None
    assert not report.backlog.grows


def test_a_probe_shorter_than_its_answers_is_repeated_for_long_enough() -> None:
    queue = Queue(64, 8.0)
    assert 0.85 * queue.per_s <= found(queue, replace(SETTINGS, arrivals="constant", duration_s=10.0)) <= queue.per_s


def test_a_search_whose_probes_cannot_tell_ends_and_says_why() -> None:
    queue = Queue(64, 8.0)
    settings = replace(SETTINGS, duration_s=None, requests=5)
    study, bracket = asyncio.run(find_capacity(settings, ANY_TTFT, 1.0, 0.1, 20, queue.measure))
    assert bracket.within is None
    assert "at 1 the probe was too short to see whether a queue grows: give more --duration-s." in study.conclusion


def test_a_sweep_ends_at_a_level_that_lets_the_queue_grow() -> None:
    queue = Queue(4, 0.1)

    def with_load(load: float) -> RunSettings:
        return replace(SETTINGS, rate_per_s=load, exact_offer=True)

    study = asyncio.run(sweep(iter([20.0, 38.0, 45.0, 90.0]), with_load, "req/s", 1, queue.measure))
    assert [level.load for level in study.levels] == [20.0, 38.0, 45.0]
    assert study.conclusion.endswith("45 req/s let the queue grow.")


def test_parts_of_a_course_add_up_to_the_whole_however_wide_their_slots() -> None:
    records = Queue(4, 0.1).records(replace(SETTINGS, rate_per_s=45.0, duration_s=120.0))
    whole, even, odd = LoadTimeline(), LoadTimeline(), LoadTimeline()
    for number, record in enumerate(records):
        whole.add(record)
        (odd if number % 2 else even).add(record)
    early = LoadTimeline()
    early.add(records[0])
    early.merge(even)
    early.merge(odd)
    first, second = whole.backlog(), early.backlog()
    assert first is not None
    assert second is not None
    assert whole.doublings >= 1
    assert second.answered_per_s == pytest.approx(first.answered_per_s, rel=0.01)
    assert second.in_flight_at_end == pytest.approx(first.in_flight_at_end, abs=5)


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
async def test_the_capacity_of_a_real_server_is_found(arrivals: str) -> None:
    """Four places of 50 ms: 80 per second, less on a machine that wakes up late; so many that users can keep busy."""
    places, service_ms = 4, 50.0
    with serving(MockSettings(ttft_ms=service_ms, tokens=1, max_num_seqs=places)) as server:
        settings = RunSettings(server.url, ("base",), duration_s=2.0, arrivals=arrivals)

        async def measure(asked: RunSettings, label: str) -> LoadReport:
            # A busy machine makes the client late now and then; that the server was too slow it cannot make.
            return replace(LoadReport.of(asked, await run_load(asked)), invalid=[])

        at_once = replace(settings, arrivals="poisson", concurrency=2 * places)
        before = await measure(at_once, "")
        study, _ = await find_capacity(settings, ANY_TTFT, 60.0, 0.15, 8, measure)
        after = await measure(at_once, "")
        served_per_s = min(report.total.requests_per_s for report in (before, after))
    assert study.capacity is not None
    within = study.capacity["within_per_s"]
    assert within is not None
    assert 0.85 * served_per_s <= within <= places / service_ms * 1000
    assert "the queue grew" in study.conclusion


def correlation(settings: RunSettings) -> float:
    plan = Plan.of(settings)
    times_s = [time_s for time_s, _ in zip(plan.offsets_s or (), range(settings.most_requests), strict=False)]
    ranks = [settings.models.index(spec.model) for spec in plan.specs]
    return float(np.corrcoef(np.diff(times_s, prepend=0.0), ranks)[0, 1])


def test_popular_models_get_no_bursts_and_rare_ones_no_pauses() -> None:
    models = tuple(f"m{number}" for number in range(8))
    settings = RunSettings("http://127.0.0.1:1", models, requests=64, rate_per_s=20.0, popularity="zipf:1.0")
    assert abs(np.mean([correlation(replace(settings, seed=seed)) for seed in range(200)])) < 0.03


def test_prompts_and_answer_lengths_are_drawn_apart() -> None:
    settings = RunSettings("http://127.0.0.1:1", ("base",), requests=2000, output_tokens="uniform:1:1000", prompts=None)
    specs = list(Plan.of(replace(settings, prompt_words="uniform:1:1000")).specs)
    lengths = [len(spec.messages[-1]["content"].split()) for spec in specs]
    assert abs(np.corrcoef(lengths, [spec.max_tokens for spec in specs])[0, 1]) < 0.08


@pytest.mark.parametrize(
    "words", [{}, {"prompt_words": "40"}, {"prompt_words": "40", "turns": 3}, {"prefix_words": 20}]
)
def test_no_run_of_a_study_sends_what_another_has_sent(words: dict[str, int | str]) -> None:
    settings = RunSettings("http://127.0.0.1:1", ("base",), requests=50, **words)  # type: ignore[arg-type]
    sent = [
        {spec.messages[0]["content"] for spec in Plan.of(replace(settings, run=run, rate_per_s=rate)).specs}
        for run, rate in ((0, 1.0), (1, 1.0), (2, 8.0))
    ]
    assert not sent[0] & sent[1]
    assert not sent[0] & sent[2]
    assert not sent[1] & sent[2]
    again = {spec.messages[0]["content"] for spec in Plan.of(replace(settings, run=1)).specs}
    assert again == sent[1]


def test_no_prompt_of_a_run_has_been_sent_before_in_it() -> None:
    settings = RunSettings("http://127.0.0.1:1", ("base",), requests=500)
    assert len({spec.messages[0]["content"] for spec in Plan.of(settings).specs}) == 500


@pytest.mark.parametrize("arrivals", ["constant", "poisson", "gamma"])
def test_an_exact_offer_sends_what_its_rate_says(arrivals: str) -> None:
    settings = replace(SETTINGS, rate_per_s=4.0, arrivals=arrivals, burstiness=0.5, exact_offer=True)
    times_s = list(Plan.of(settings).offsets_s or ())
    assert len(times_s) == 60
    assert times_s == sorted(times_s)
    assert 0 < times_s[0] < times_s[-1] <= 15.0
