"""What a report says in sentences, for the terminal and the page alike, from its JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

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
