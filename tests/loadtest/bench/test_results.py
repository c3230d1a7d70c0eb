"""What is derived from samples: ratios round by round, added latency against the engine in the same round, faults."""

from typing import Any

from loadtest.bench import results
from loadtest.bench.results import TARGETS, BenchTarget, Result, Sample, Soak, Spread


def sample(system: str, workload: str = "plain", round: int = 1, **changes: Any) -> Sample:  # noqa: A002 its name
    figures: dict[str, Any] = {
        "beside": "",
        "completed": 100,
        "failed": 0,
        "errors": {},
        "requests_per_s": 100.0,
        "cpu_us_per_request": 100.0,
        "rss_mib": 50.0,
        "system_cores": 0.5,
        "client_cores": 0.1,
        "engine_cores": 0.1,
        "other_cores": 0.0,
        "peak_running": 16,
        "latency": None,
        "ttft": None,
    }
    return Sample(workload, round, system, **figures | changes)


def result(*samples: Sample) -> Result:
    return Result("2026-01-01", "turntable loadtest bench", {}, {}, [], 2, 1, {"turntable": [1.0]}, list(samples))


def latency(p50_ms: float) -> dict[str, float]:
    return {"p50_ms": p50_ms, "p99_ms": 10 * p50_ms}


def test_a_ratio_is_taken_within_a_round() -> None:
    costs = {1: (300.0, 100.0), 2: (900.0, 450.0)}
    run = result(
        *(
            sample(name, round=number, cpu_us_per_request=cost)
            for number, pair in costs.items()
            for name, cost in zip(("turntable", "vllm-router"), pair, strict=True)
        )
    )
    assert run.ratio("turntable", "vllm-router", "plain") == Spread(2.0, 2.5, 3.0)


def test_latency_is_what_is_added_over_the_engine_asked_beside_the_system() -> None:
    run = result(
        sample("direct", "load70", beside="litellm", latency=latency(9)),
        sample("direct", "load70", beside="turntable", latency=latency(1)),
        sample("turntable", "load70", latency=latency(3)),
        sample("direct", "streams256", round=2, ttft=latency(2)),
        sample("turntable", "streams256", round=2, ttft=latency(7)),
    )
    assert run.added_ms("turntable", "load70", "latency", "p50_ms") == Spread(2, 2, 2)
    assert run.added_ms("turntable", "streams256", "ttft", "p99_ms") == Spread(50, 50, 50)
    assert run.added_ms("turntable", "load70", "ttft", "p50_ms") is None


def test_a_busy_client_before_an_idle_system_makes_the_run_invalid() -> None:
    assert result(sample("turntable", client_cores=0.95)).faults() == [
        "turntable, plain, round 1: INVALID: client-bound (client 0.95, engine 0.10 cores, the system 0.50)"
    ]
    assert result(sample("turntable", engine_cores=0.95)).faults()
    assert not result(sample("turntable", client_cores=0.95, system_cores=0.97)).faults()
    assert not result(sample("direct", client_cores=0.95, system_cores=0.5)).faults()


def test_the_page_says_when_the_machine_was_shared() -> None:
    warning = "**The machine was shared**: others used up to 1.20 cores."
    assert warning in results.bottleneck_table(result(sample("direct"), sample("turntable", other_cores=1.2)))
    assert "shared" not in results.bottleneck_table(result(sample("direct"), sample("turntable", other_cores=0.1)))


def test_failed_answers_are_faults() -> None:
    run = result(sample("litellm", failed=3, errors={"no [DONE]": 2, "status 500": 1}))
    assert run.faults() == ["litellm, plain, round 1: 3 of 103 failed (2 x no [DONE], 1 x status 500)"]


def test_a_bar_is_met_up_to_its_limit_and_says_when_nothing_was_measured() -> None:
    def bar(figure: Spread | None) -> BenchTarget:
        return BenchTarget("x", 2, " s", lambda _: figure)

    assert bar(Spread(1, 2, 9)).verdict(result()) == "met"
    assert bar(Spread(1, 2.01, 3)).verdict(result()) == "missed"
    assert bar(None).verdict(result()) == "not measured"


def test_a_run_survives_json_and_its_page_shows_missed_bars_as_missed() -> None:
    run = result(sample("direct"), sample("turntable", cpu_us_per_request=151.0), sample("vllm-router", rss_mib=9999.0))
    again = Result.from_json(run.as_json())
    assert again == run
    shown = results.bars_table(again).splitlines()
    assert "| CPU per plain request, over vllm-router | ≤ 1.50× | 1.51× (1.51 to 1.51) | missed |" in shown
    assert "| CPU per plain request, over LiteLLM | ≤ 0.033× |  | not measured |" in shown
    assert "| memory (RSS) | ≤ 150 MiB | 50.0 MiB (50.0 to 50.0) | met |" in shown
    assert len(shown) == 2 + len(TARGETS)
    assert "| plain request | 1.51× (1.51 to 1.51) | 1.00× (1.00 to 1.00) |" in results.ratios_table(again)
    assert (
        "| memory (RSS), MiB | 50.0 (50.0 to 50.0) | 50.0 (50.0 to 50.0) | 9,999 (9,999 to 9,999) |"
        in results.figures_table(again)
    )


def test_the_slope_of_a_soak_leaves_out_the_first_fifth() -> None:
    climbing = [50.0, 80.0, *(100 + block * 0.5 for block in range(9))]
    assert round(Soak("", {}, {}, 100_000, 0, climbing).slope_mib, 6) == 0.5
    assert "+0.50 MiB: met" in results.soak_table(Soak("", {}, {}, 100_000, 0, climbing))
    assert "+5.00 MiB: missed" in results.soak_table(Soak("", {}, {}, 10_000, 0, climbing))
