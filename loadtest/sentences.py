"""Sentences of a load test report, for the terminal and the page: its settings, verdict, backlog and cached tokens."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]
LIMITS = {"ttft_ms": "TTFT", "itl_ms": "each gap (ITL)", "tpot_ms": "TPOT", "e2e_ms": "E2E"}


def asked_in_words(settings: Settings) -> Iterator[tuple[str, str]]:
    """Settings of the test as names and values; those without effect are left out."""
    models = list(settings["models"])
    yield "server", str(settings["url"])
    yield "models", ", ".join(map(str, models))
    if len(models) > 1:
        yield "model mix", str(settings["popularity"])
    yield "load", _load(settings)
    if settings["requests"]:
        yield "requests", f"{settings['requests']:,}"
    if settings["duration_s"]:
        yield "duration", f"{settings['duration_s']:g} s"
    yield "prompts", _prompts(settings)
    yield "answers", _answers(settings)
    yield "SLO (goodput)", _limits(settings["slo"])
    yield "warm-up", _warm_up(settings["warmup"])
    if settings["promotions"]:
        promotions = settings["promotions"]
        versions = ", ".join(f"v{version}" for version in promotions["versions"])
        yield "promotions", f"{promotions['adapter']}: {versions} in turn, every {promotions['every_s']:g} s"
    if settings["usd_per_hour"] is not None:
        yield "server price", f"${settings['usd_per_hour']:g} per hour"
    yield "request timeout", f"{settings['timeout_s']:g} s"
    yield "client", "1 process" if settings["processes"] == 1 else f"{settings['processes']} processes"
    yield "seed", str(settings["seed"])


def _load(settings: Settings) -> str:
    users = settings["concurrency"]
    if settings["arrivals"] == "trace":
        times = "" if settings["speedup"] == 1 else f", {settings['speedup']:g}x speed"
        return f"at the times of the trace{times}"
    if not settings["rate_per_s"] and not settings["ramp"]:
        think = f", then pauses {settings['think_s']:g} s (think time)" if settings["think_s"] else ""
        return f"closed loop: {users} concurrent users; each waits for its answer{think}"
    gaps = {"constant": "at constant intervals", "gamma": f"in bursts (gamma, shape {settings['burstiness']:g})"}
    if settings["ramp"]:
        start, end, over = settings["ramp"].split(":")
        rate = f"from {start} to {end} requests per second within {over} s"
    else:
        rate = f"{settings['rate_per_s']:g} requests per second"
    cap = f", at most {users} concurrent" if users else ""
    return f"open loop: {rate}, {gaps.get(settings['arrivals'], 'at random (Poisson)')}{cap}"


def _prompts(settings: Settings) -> str:
    if settings["trace"]:
        words = f"random words, as many as in {settings['trace']}"
    elif settings["prompts"] == "random words":
        words = f"random words ({settings['prompt_words'] or 32})"
    elif settings["prompts"] == "built-in":
        words = "built-in customer messages, numbered so that no two are equal"
    else:
        words = f"the lines of {settings['prompts']}"
    if settings["turns"] > 1:
        words += f", in conversations of {settings['turns']} turns, {settings['conversations']} concurrent"
    shared = settings["prefix_words"]
    return f"{words}, after a shared system prompt of {shared} words" if shared else words


def _answers(settings: Settings) -> str:
    if settings["trace"]:
        return "lengths of the trace, exactly"
    if settings["output_tokens"]:
        return f"exact token counts: {settings['output_tokens']}"
    return f"at most {settings['max_tokens']} tokens"


def _limits(slo: Mapping[str, float | None]) -> str:
    kept = [f"{LIMITS[name]} up to {limit:g} ms" for name, limit in slo.items() if limit is not None]
    return ", ".join(kept) or "none: every answer counts as goodput"


def _warm_up(warmup: int) -> str:
    if not warmup:
        return "none: the first requests measure a cold start"
    return f"{warmup} {'request' if warmup == 1 else 'requests'} to every model, not counted"


VERDICTS = {
    "valid": "Valid: the client was not saturated, so these figures measure the server.",
    "partial": "PARTIAL: interrupted before the end.",
    "INVALID: client-bound": "INVALID: client-bound. These figures measure the load tester, not the server.",
}


def verdict_in_words(verdict: str) -> str:
    """A verdict with its meaning."""
    return VERDICTS.get(verdict, f"Verdict: {verdict}.")


def backlog_sentence(report: Mapping[str, Any]) -> str:
    """Whether the server kept up with a constant load; an empty text when that is not known."""
    backlog = report.get("backlog")
    if not backlog:
        return ""
    offered = report["settings"]["rate_per_s"]
    if backlog["grows"]:
        return (
            f"The queue grew: of {offered:g} requests offered per second "
            f"{backlog['answered_per_s']:.3g} were answered; "
            f"answers took {backlog['first_third_ms'] / 1000:.3g} s at the start and "
            f"{backlog['last_third_ms'] / 1000:.3g} s at the end. Latencies depend on the length of the test."
        )
    return f"The server kept up with {offered:g} requests per second: no queue grew."


def cached_sentence(reports: Sequence[Mapping[str, Any]]) -> str:
    """The share of prompt tokens from the server's prefix cache, when the server reports it."""
    reported = [report["total"] for report in reports if report["total"].get("cached_tokens") is not None]
    prompt = sum(total["prompt_tokens"] for total in reported)
    if not prompt:
        return ""
    cached = sum(total["cached_tokens"] for total in reported)
    return f"{cached:,} of {prompt:,} prompt tokens ({cached / prompt:.1%}) came from the server's prefix cache."
