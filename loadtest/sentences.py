"""What a load test asked for and of whom, in plain words, from the settings of its report.

What a report says in sentences, for the terminal and the page alike, from its JSON.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]
LIMITS = {"ttft_ms": "TTFT", "itl_ms": "each gap (ITL)", "tpot_ms": "TPOT", "e2e_ms": "E2E"}


def asked_in_words(settings: Settings) -> Iterator[tuple[str, str]]:
    """Names and values for people; what does not matter in this test is left out."""
    models = list(settings["models"])
    yield "server", str(settings["url"])
    yield "models", ", ".join(map(str, models))
    if len(models) > 1:
        yield "which model gets a request", str(settings["popularity"])
    yield "load", _load(settings)
    if settings["requests"]:
        yield "requests", f"{settings['requests']:,}"
    if settings["duration_s"]:
        yield "sent for", f"{settings['duration_s']:g} s"
    yield "prompts", _prompts(settings)
    yield "answers", _answers(settings)
    yield "a good request keeps", _limits(settings["slo"])
    yield "before the start", _warm_up(settings["warmup"])
    if settings["promotions"]:
        promotions = settings["promotions"]
        versions = ", ".join(f"v{version}" for version in promotions["versions"])
        yield "promotions", f"{promotions['adapter']}: {versions} in turn, every {promotions['every_s']:g} s"
    if settings["usd_per_hour"] is not None:
        yield "price of the server", f"${settings['usd_per_hour']:g} per hour"
    yield "a request fails after", f"{settings['timeout_s']:g} s"
    yield "sent by", "1 process" if settings["processes"] == 1 else f"{settings['processes']} processes"
    yield "seed", str(settings["seed"])


def _load(settings: Settings) -> str:
    users = settings["concurrency"]
    if settings["arrivals"] == "trace":
        times = "" if settings["speedup"] == 1 else f", {settings['speedup']:g} times as fast"
        return f"at the times of the trace{times}"
    if not settings["rate_per_s"] and not settings["ramp"]:
        think = f", and thinks {settings['think_s']:g} s before the next" if settings["think_s"] else ""
        return f"closed loop: {users} users, each of whom waits for the answer{think}"
    gaps = {"constant": "at even intervals", "gamma": f"in bursts (gamma, shape {settings['burstiness']:g})"}
    if settings["ramp"]:
        start, end, over = settings["ramp"].split(":")
        rate = f"from {start} to {end} requests per second within {over} s"
    else:
        rate = f"{settings['rate_per_s']:g} requests per second"
    cap = f", at most {users} at a time" if users else ""
    return f"open loop: {rate}, {gaps.get(settings['arrivals'], 'at random (Poisson)')}{cap}"


def _prompts(settings: Settings) -> str:
    if settings["trace"]:
        words = f"random words, as many as in {settings['trace']}"
    elif settings["prompts"] == "random words":
        words = f"random words ({settings['prompt_words'] or 32})"
    elif settings["prompts"] == "built-in":
        words = "the built-in customer messages, each with a number of its own"
    else:
        words = f"the lines of {settings['prompts']}"
    if settings["turns"] > 1:
        words += f", in conversations of {settings['turns']} turns, {settings['conversations']} at a time"
    shared = settings["prefix_words"]
    return f"{words}, behind a shared system prompt of {shared} words" if shared else words


def _answers(settings: Settings) -> str:
    if settings["trace"]:
        return "exactly as long as in the trace"
    if settings["output_tokens"]:
        return f"exactly so many tokens: {settings['output_tokens']}"
    return f"at most {settings['max_tokens']} tokens"


def _limits(slo: Mapping[str, float | None]) -> str:
    kept = [f"{LIMITS[name]} up to {limit:g} ms" for name, limit in slo.items() if limit is not None]
    return ", ".join(kept) or "no limit: every answer is good"


def _warm_up(warmup: int) -> str:
    if not warmup:
        return "no warm-up: the first requests meet a cold server"
    return f"{warmup} {'request' if warmup == 1 else 'requests'} to every model, not counted"


VERDICTS = {
    "valid": "Valid: the load tester kept pace, so these figures are about the server.",
    "partial": "PARTIAL: interrupted before the end.",
    "INVALID: client-bound": "INVALID: client-bound. These figures are about the load tester, not the server.",
}


def verdict_in_words(verdict: str) -> str:
    """A verdict with what it means."""
    return VERDICTS.get(verdict, f"Verdict: {verdict}.")


def backlog_sentence(report: Mapping[str, Any]) -> str:
    """Whether the server kept up with a steady load; nothing where that is not known."""
    backlog = report.get("backlog")
    if not backlog:
        return ""
    offered = report["settings"]["rate_per_s"]
    if backlog["grows"]:
        return (
            f"A queue grew: of {offered:g} requests offered per second {backlog['answered_per_s']:.3g} were answered; "
            f"answers took {backlog['first_third_ms'] / 1000:.3g} s at the start and "
            f"{backlog['last_third_ms'] / 1000:.3g} s at the end. Latencies depend on how long the test lasted."
        )
    return f"The server kept up with {offered:g} requests per second: no queue grew."


def cached_sentence(reports: Sequence[Mapping[str, Any]]) -> str:
    """How much of the prompts came from the server's prefix cache, where the server tells."""
    told = [report["total"] for report in reports if report["total"].get("cached_tokens") is not None]
    prompt = sum(total["prompt_tokens"] for total in told)
    if not prompt:
        return ""
    cached = sum(total["cached_tokens"] for total in told)
    return f"{cached:,} of {prompt:,} prompt tokens ({cached / prompt:.1%}) came from the server's prefix cache."
