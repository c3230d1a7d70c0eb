"""The evidence of a decision as tables and charts: gate checks, arms, slices, classes, human evaluation, costs."""

from collections.abc import Iterable, Iterator

from trainer.eval.report import CLASS_F1, Arm, MetricResult
from trainer.report.context import DecisionContext
from trainer.report.figures import NANO, UNPRICED, difference_text, is_share, measure_text, share_metrics, usd, words
from turntable.pages import charts
from turntable.pages.charts import Axis, Bar, Limit, Range
from turntable.pages.numbers import PERCENT, POINTS, USD
from turntable.pages.svg import Drawing
from turntable.pages.tables import PageTable, Tile

_CHARTED = 5
"""Metrics in charts; the tables have all."""
_THOUSAND = 1000
_RESULTS = {True: "passed", False: "FAILED", None: "cannot tell"}
_CANDIDATE, _RIVAL, _OTHER = 0, 1, 7
"""Tones: the same arm has the same colour and marker in every chart."""


def tiles(context: DecisionContext) -> Iterator[Tile]:
    """The key figures: the metric that decides, the gain over the rival, cost and latency."""
    arm, rival, metric = context.candidate, context.rival, context.gate_metric
    if arm is None:
        return
    mine, theirs = arm.metrics.get(metric), rival.metrics.get(metric) if rival else None
    if mine:
        yield Tile(f"{arm.name}: {words(metric)}", _figure(mine), f"95% interval {_interval(mine)}")
    if rival and theirs:
        yield Tile(f"{rival.name}: {words(metric)}", _figure(theirs), f"95% interval {_interval(theirs)}")
    found = [d for d in context.report.differences if (d.arm, d.metric) == (arm.name, metric)]
    against = next((d for d in found if rival and d.against == rival.name), None)
    if against and mine and is_share(mine):
        value, _, interval = difference_text(against, is_share=True).partition(" (")
        yield Tile("Gain", value, f"95% interval {interval.removesuffix(')')}")
    if arm.cost_nano_usd.per_correct is not None:
        theirs_nano = rival.cost_nano_usd.per_correct if rival else None
        beside = f"{rival.name}: {USD.text(theirs_nano * _THOUSAND / NANO)}" if rival and theirs_nano else ""
        yield Tile("Per 1,000 correct answers", USD.text(arm.cost_nano_usd.per_correct * _THOUSAND / NANO), beside)
    beside = f"{rival.name}: {rival.latency_ms.p50:,.0f} ms" if rival else ""
    yield Tile("Latency p50", f"{arm.latency_ms.p50:,.0f} ms", beside)


def checks(context: DecisionContext) -> PageTable:
    """Every check that the verdict is made of."""
    rows = [
        [words(c.name), _RESULTS[c.passed], "" if c.measured is None else f"{c.measured:.4g}", c.required, c.sentence]
        for c in context.report.gate.checks
    ]
    return PageTable(["check", "result", "measured", "required", "explanation"], rows, text=(0, 1, 3, 4))


def gain_chart(context: DecisionContext) -> Drawing | None:
    """The gain over every other arm by the metric that decides, with the gain that the gate asks for."""
    arm, metric = context.candidate, context.gate_metric
    if arm is None or metric not in share_metrics(context.report.arms):
        return None
    rows = [
        Range(f"over {d.against}", low, d.value, high, POINTS.text(d.value), _CANDIDATE)
        for d in context.report.differences
        for low, high in (d.interval_95,)
        if (d.arm, d.metric) == (arm.name, metric)
    ]
    least = next((c.limit for c in context.report.gate.checks if c.name == "gain" and c.limit is not None), None)
    limits = [] if least is None else [Limit(f"gate: at least {POINTS.text(least)}", least)]
    title = f"Gain of {arm.name} in {words(metric)}, with 95% intervals"
    return charts.ranges(title, Axis("gain", POINTS), rows, limits)


def arms_table(arms: tuple[Arm, ...]) -> PageTable:
    """The arms side by side: a row for every metric, as there may be many metrics, but hardly many arms."""
    rows = [["kind", *map(_kind, arms)]]
    names = dict.fromkeys(name for arm in arms for name in arm.metrics)
    rows += [[words(name), *(measure_text(arm.metrics.get(name)) for arm in arms)] for name in names]
    rows.append(["tokens, prompt / completion", *(f"{a.tokens.prompt:,} / {a.tokens.completion:,}" for a in arms)])
    rows.append(["latency p50 / p95, ms", *(f"{a.latency_ms.p50:,.0f} / {a.latency_ms.p95:,.0f}" for a in arms)])
    return PageTable(["", *(arm.name for arm in arms)], rows)


def metric_charts(context: DecisionContext) -> list[Drawing]:
    """The first metrics that are shares, the one that decides at the head, each with the arms below each other."""
    names = [name for name in share_metrics(context.report.arms) if not name.startswith(CLASS_F1)]
    names = sorted(names, key=lambda name: name != context.gate_metric)[:_CHARTED]
    drawings = []
    for metric in names:
        rows = [
            Range(arm.name, *_ends(found), f"{found.value:.1%}", _tone(context, arm))
            for arm in context.report.arms
            if (found := arm.metrics.get(metric))
        ]
        title = f"{words(metric).capitalize()} by arm, with 95% intervals"
        drawings.append(charts.ranges(title, Axis("", PERCENT, low=0.0, high=1.0), rows))
    return [drawing for drawing in drawings if drawing]


def differences_table(context: DecisionContext) -> PageTable:
    """How far the candidate is from the others; the report holds those between the others too."""
    shares = set(share_metrics(context.report.arms))
    rows = [
        [
            d.arm,
            d.against,
            words(d.metric),
            difference_text(d, is_share=d.metric in shares),
            f"{d.items_needed:,}" if d.items_needed else "-",
        ]
        for d in context.report.differences
        if context.candidate and d.arm == context.candidate.name
    ]
    return PageTable(["arm", "against", "metric", "difference", "examples needed"], rows, text=(0, 1, 2))


def slices(context: DecisionContext) -> tuple[PageTable, Drawing | None]:
    """The candidate and its rival, slice by slice."""
    arm, rival, metric = context.candidate, context.rival, context.gate_metric
    if arm is None or rival is None:
        return PageTable([], []), None
    pairs = [
        (name, mine, theirs)
        for name, figures in arm.slices.items()
        if (mine := figures.get(metric)) and (theirs := rival.slices.get(name, {}).get(metric))
    ]
    rows = [
        [name, f"{mine.of:,}", measure_text(mine), measure_text(theirs), _gain(mine, theirs)]
        for name, mine, theirs in pairs
    ]
    title = f"{words(metric).capitalize()} of {arm.name} by slice"
    chart = _parts_chart(title, rival, ((name, mine, theirs) for name, mine, theirs in pairs if is_share(mine)))
    return PageTable(["slice", "examples", arm.name, rival.name, "difference"], rows), chart


def classes(context: DecisionContext) -> tuple[PageTable, Drawing | None]:
    """The candidate and its rival, class by class of the answers."""
    arm, rival = context.candidate, context.rival
    names = [name for name in arm.metrics if name.startswith(CLASS_F1)] if arm and rival else []
    if arm is None or rival is None or not names:
        return PageTable([], []), None
    found = [(name.removeprefix(CLASS_F1), arm.metrics[name], rival.metrics.get(name)) for name in names]
    rows = [[name, measure_text(mine), measure_text(theirs), _gain(mine, theirs)] for name, mine, theirs in found]
    chart = _parts_chart(f"F1 of {arm.name} by class", rival, found)
    return PageTable(["class", arm.name, rival.name, "difference"], rows), chart


def human_table(context: DecisionContext) -> PageTable:
    """What raters said who did not know which arm they read."""
    human = context.report.human or {}
    named = ("raters", "rated", "won", "lost", "tied", "identical")
    rows = [[words(name), _count(human[name])] for name in named if name in human]
    agreement = human.get("agreement") or {}
    if agreement.get("alpha") is not None:
        rows.append(
            ["agreement (Krippendorff's alpha)", f"{agreement['alpha']:.2f} over {agreement['items']} examples"]
        )
    if human.get("p_value") is not None:
        rows.append(["sign test, two-sided", f"p = {human['p_value']:.3g}"])
    return PageTable(["", str(human.get("arm", ""))], rows)


def costs_table(arms: tuple[Arm, ...], bases: Iterable[str]) -> PageTable:
    """What each arm costs, and what a correct answer does."""
    rows = [
        [
            arm.name,
            usd(arm.cost_nano_usd.total),
            usd(arm.cost_nano_usd.per_request),
            _per_correct(arm),
            basis,
        ]
        for arm, basis in zip(arms, bases, strict=True)
    ]
    return PageTable(["arm", "this comparison", "per request", "per correct answer", "priced by"], rows, text=(0, 4))


def cost_chart(context: DecisionContext) -> Drawing | None:
    """The cost of a correct answer, arm by arm."""
    rows = [
        Bar(arm.name, [("", cost / NANO)], _tone(context, arm), usd(cost))
        for arm in context.report.arms
        if (cost := arm.cost_nano_usd.per_correct)
    ]
    return charts.bars("Cost per correct answer, USD", USD, rows)


def _parts_chart(
    title: str, rival: Arm, parts: Iterable[tuple[str, MetricResult, MetricResult | None]]
) -> Drawing | None:
    """The candidate's figure of each part, written with its gain over the rival."""
    rows = [
        Range(name, *_ends(mine), f"{mine.value:.1%} {_signed(mine, theirs)}".strip()) for name, mine, theirs in parts
    ]
    axis = Axis(f"in brackets: points over {rival.name}", PERCENT, low=0.0, high=1.0)
    return charts.ranges(title, axis, rows)


def _signed(mine: MetricResult, theirs: MetricResult | None) -> str:
    return "" if theirs is None else f"({(mine.value - theirs.value) * 100:+.1f})"


def _gain(mine: MetricResult, theirs: MetricResult | None) -> str:
    return "" if theirs is None else f"{(mine.value - theirs.value) * 100:+.1f} points"


def _ends(found: MetricResult) -> tuple[float, float, float]:
    return found.interval_95[0], found.value, found.interval_95[1]


def _figure(found: MetricResult) -> str:
    return f"{found.value:.1%}" if is_share(found) else f"{found.value:.2f}"


def _interval(found: MetricResult) -> str:
    return measure_text(found).partition("(")[2].removesuffix(")")


def _kind(arm: Arm) -> str:
    shots = arm.settings.get("shots")
    return f"{arm.kind.value}, {shots} few-shot examples" if shots else arm.kind.value


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _per_correct(arm: Arm) -> str:
    cost = arm.cost_nano_usd
    return usd(cost.per_correct) if cost.per_correct is not None else UNPRICED if cost.total is None else "none correct"


def _tone(context: DecisionContext, arm: Arm) -> int:
    if context.candidate and arm.name == context.candidate.name:
        return _CANDIDATE
    return _RIVAL if context.rival and arm.name == context.rival.name else _OTHER
