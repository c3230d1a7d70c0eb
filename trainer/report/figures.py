"""Figures of a decision as text: shares, points and money, the same in tables and charts."""

from trainer.eval.report import Arm, Difference, MetricResult

NANO = 1_000_000_000
UNPRICED = "no price known"


def is_share(measure: MetricResult) -> bool:
    """Return whether a figure is a share; lengths are not."""
    low, high = measure.interval_95
    return min(low, measure.value) >= 0 and max(high, measure.value) <= 1


def share_metrics(arms: tuple[Arm, ...]) -> list[str]:
    """Return the metrics that are shares in every arm that has them, in the order of the arms."""
    names = dict.fromkeys(name for arm in arms for name in arm.metrics)
    return [name for name in names if all(is_share(arm.metrics[name]) for arm in arms if name in arm.metrics)]


def measure_text(measure: MetricResult | None) -> str:
    """Write a figure with its interval."""
    if measure is None:
        return "not measured"
    low, high = measure.interval_95
    if is_share(measure):
        return f"{measure.value:.1%} ({low:.1%} to {high:.1%})"
    return f"{measure.value:.2f} ({low:.2f} to {high:.2f})"


def difference_text(difference: Difference, *, is_share: bool) -> str:
    """Write a difference with its interval, in points when it is one of shares."""
    low, high = difference.interval_95
    if not is_share:
        return f"{difference.value:+.2f} ({low:+.2f} to {high:+.2f})"
    return f"{difference.value * 100:+.1f} points ({low * 100:+.1f} to {high * 100:+.1f})"


def usd(nano_usd: int | None) -> str:
    """Write an amount with as many digits as it needs; an unknown price is never $0."""
    if nano_usd is None:
        return UNPRICED
    dollars = nano_usd / NANO
    if dollars == 0:
        return "$0"
    return f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.9f}".rstrip("0")


def words(name: str) -> str:
    """Write the name of a metric or a field as words."""
    return name.replace("_", " ")
