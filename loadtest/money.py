"""What a load level costs: the price of the server's time over what it got done in it."""

from dataclasses import dataclass

from loadtest.stats import Summary

HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars at one load level; None where nothing was done to share them."""

    usd_per_hour: float
    usd: float
    """The price of the time the test took, idle moments included."""
    per_request: float | None
    per_good_request: float | None
    """Over requests answered within the SLO only: late and failed ones are paid for, too."""
    per_million_output_tokens: float | None
    per_million_tokens: float | None
    """Over prompt and output tokens alike."""

    @classmethod
    def of(cls, summary: Summary, over_s: float, usd_per_hour: float) -> "Cost":
        """The cost of `over_s` seconds in which this was done."""
        usd = usd_per_hour * over_s / HOUR_S

        def share(count: float) -> float | None:
            return usd / count if count else None

        return cls(
            usd_per_hour=usd_per_hour,
            usd=usd,
            per_request=share(summary.succeeded),
            per_good_request=share(summary.good),
            per_million_output_tokens=share(summary.completion_tokens / 1e6),
            per_million_tokens=share((summary.prompt_tokens + summary.completion_tokens) / 1e6),
        )
