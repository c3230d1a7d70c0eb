"""What a run found, as docs/benchmarks/adapters.json keeps it, and the bars it is held against."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Many:
    """Zipf traffic over many registered adapters; `judged` answers were compared with references, `wrong` of them came
    from other weights; `agrees` says whether gateway and engine name the same residents afterwards.
    """

    registered: int
    active: int
    requests: int
    failed: int
    judged: int
    wrong: int
    rss_mib: list[float]
    resident: int
    agrees: bool
    list_s: float
    models_s: float


@dataclass(frozen=True, slots=True)
class Kill:
    """An engine killed with adapters in use; times count from when the new engine's own health check said yes."""

    adapters: int
    engine_start_s: float
    ready_s: float
    back_s: float
    wrong: int


@dataclass(frozen=True, slots=True)
class AdapterResult:
    """Everything measured: tokens per second with one and with many adapters per round, first tokens in ms."""

    plan: str
    one: list[float]
    many: list[float]
    cold_ms: list[float]
    warm_ms: list[float]
    turns: Many
    kill: Kill

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "AdapterResult":
        """What `as_json` of a run wrote, without what is not measured."""
        known = {name: document[name] for name in cls.__slots__ if name not in ("turns", "kill")}
        return cls(**known, turns=Many(**document["turns"]), kill=Kill(**document["kill"]))

    @property
    def ratio(self) -> float:
        """Tokens per second with many adapters over one, median of the rounds."""
        return median(many / one for many, one in zip(self.many, self.one, strict=True))

    @property
    def cold_extra_ms(self) -> float:
        """How much later the first token of a cold adapter comes, median."""
        return median(cold - warm for cold, warm in zip(self.cold_ms, self.warm_ms, strict=True))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a figure, its bar, and whether it is met."""

    what: str
    bar: str
    found: str
    is_met: bool


def rows(result: AdapterResult, resolve_pin_us: float | None) -> list[Row]:
    """Every figure beside its bar."""
    turns, kill = result.turns, result.kill
    found = [
        Row("first token, cold over warm", "≤ 100 ms", f"{result.cold_extra_ms:.1f} ms", result.cold_extra_ms <= 100),
        Row("64 adapters, Zipf 1, over one adapter: tokens/s", "≥ 0.95", f"{result.ratio:.2f}", result.ratio >= 0.95),
        Row(f"{turns.registered:,} versions listed", "≤ 1 s", f"{turns.list_s:.2f} s", turns.list_s <= 1),
        Row("the same in /v1/models", "≤ 1 s", f"{turns.models_s:.2f} s", turns.models_s <= 1),
        Row(
            f"{turns.requests:,} requests, Zipf over {turns.active} of them: failed",
            "0",
            str(turns.failed),
            not turns.failed,
        ),
        Row("answers from other weights", "0", f"{turns.wrong} of {turns.judged:,} judged", not turns.wrong),
        Row(
            "residents: gateway and engine agree",
            "yes",
            f"{'yes' if turns.agrees else 'no'}, {turns.resident}",
            turns.agrees,
        ),
        Row(
            f"engine killed with {kill.adapters} adapters in use: all back after its own start",
            "≤ 15 s",
            f"{kill.back_s:.1f} s",
            kill.back_s <= 15,
        ),
        Row("of these, answers from other weights", "0", str(kill.wrong), not kill.wrong),
    ]
    if resolve_pin_us is not None:
        found.append(Row("resolve and pin a warm adapter", "≤ 20 µs", f"{resolve_pin_us:.1f} µs", resolve_pin_us <= 20))
    return found


def table(result: AdapterResult, resolve_pin_us: float | None) -> str:
    """The rows in Markdown, with memory, which has no bar."""
    lines = ["| what | bar | found |  |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row.what} | {row.bar} | {row.found} | {'met' if row.is_met else 'missed'} |"
        for row in rows(result, resolve_pin_us)
    ]
    before, after = result.turns.rss_mib
    lines.append(f"| memory of gateway and engine, before and after them |  | {before:,.0f} MiB, {after:,.0f} MiB |  |")
    return "\n".join(lines)
