"""What a comparison found, as sections: the arms, the checks, the slices, people's judgement, costs, single answers."""

from collections.abc import Iterator

from trainer.eval.costs import basis_sentence, basis_word
from trainer.eval.report import CLASS_F1, Arm
from trainer.report import chart
from trainer.report.blocks import Block, Charts, Heading, Sides, Table, Words
from trainer.report.context import DecisionContext
from trainer.report.figures import NANO, UNPRICED, difference_text, is_share, measure_text, share_metrics, usd, words

_CHARTED = 5
_MARKS = {True: "passed", False: "FAILED", None: "cannot tell"}


def arms(story: DecisionContext) -> Iterator[Block]:
    """The arms side by side, and how far each is from the others."""
    arms = story.report.arms
    yield Heading("What was compared")
    yield Words("Every arm was asked every item. Figures stand with their 95 % intervals.")
    yield Table(["", *(arm.name for arm in arms)], list(_figures(arms)))
    drawn = [name for name in share_metrics(arms) if not name.startswith(CLASS_F1)][:_CHARTED]
    yield Charts([drawing for name in drawn if (drawing := _metric_chart(story, name))])
    yield from _differences(story)


def _figures(arms: tuple[Arm, ...]) -> Iterator[list[str]]:
    """A row for everything that was measured, as there may be many metrics, but hardly many arms."""
    yield ["what it is", *map(_kind, arms)]
    for name in dict.fromkeys(name for arm in arms for name in arm.metrics):
        yield [words(name), *(measure_text(arm.metrics.get(name)) for arm in arms)]
    yield ["tokens in / out", *(f"{arm.tokens.prompt:,} / {arm.tokens.completion:,}" for arm in arms)]
    yield ["latency p50 / p95", *(f"{arm.latency_ms.p50:,.0f} / {arm.latency_ms.p95:,.0f} ms" for arm in arms)]


def _differences(story: DecisionContext) -> Iterator[Block]:
    """How far the candidate is from the others; the report holds those between the others too."""
    shares = set(share_metrics(story.report.arms))
    mine = [d for d in story.report.differences if story.candidate and d.arm == story.candidate.name]
    if mine:
        yield Table(
            ["arm", "against", "metric", "difference", "items needed to see the asked difference"],
            [
                [
                    d.arm,
                    d.against,
                    words(d.metric),
                    difference_text(d, is_share=d.metric in shares),
                    f"{d.items_needed:,}" if d.items_needed else "-",
                ]
                for d in mine
            ],
        )


def _kind(arm: Arm) -> str:
    shots = arm.settings.get("shots")
    return f"{arm.kind.value}, {shots} examples in the prompt" if shots else arm.kind.value


def _metric_chart(story: DecisionContext, metric: str) -> str:
    marks = [
        chart.Mark(arm.name, m.value, *m.interval_95, f"{m.value:.1%}", _colour(story, arm))
        for arm in story.report.arms
        if (m := arm.metrics.get(metric))
    ]
    return chart.intervals(words(metric), marks, 0.0, 1.0)


def gate(story: DecisionContext) -> Iterator[Block]:
    """Every check that the verdict is made of."""
    gate = story.report.gate
    if not gate.checks:
        return
    yield Heading("May it go live? The checks of the gate")
    if gate.arm and gate.against:
        yield Words(f"{gate.arm} is held against {gate.against}, the better of what it has to beat.")
    yield Table(
        ["check", "", "measured", "required", "in words"],
        [
            [words(c.name), _MARKS[c.passed], "" if c.measured is None else f"{c.measured:.4g}", c.required, c.sentence]
            for c in gate.checks
        ],
    )


def slices(story: DecisionContext) -> Iterator[Block]:
    """The candidate and its rival, slice by slice."""
    arm, rival = story.candidate, story.rival
    if arm is None or rival is None or not arm.slices:
        return
    metric = story.gate_metric
    rows, marks = [], []
    for name, figures in arm.slices.items():
        mine, theirs = figures.get(metric), rival.slices.get(name, {}).get(metric)
        if mine is None or theirs is None:
            continue
        gain = mine.value - theirs.value
        rows.append([name, f"{mine.of:,}", measure_text(mine), measure_text(theirs), f"{gain * 100:+.1f} points"])
        if is_share(mine):
            marks.append(chart.Mark(name, mine.value, *mine.interval_95, f"{gain * 100:+.1f}", chart.CANDIDATE))
    yield Heading(f"Slices, by {words(metric)}")
    yield Table(["slice", "items", arm.name, rival.name, "difference"], rows)
    yield Charts([chart.intervals(f"{words(metric)} of {arm.name} by slice", marks, 0.0, 1.0)])


def classes(story: DecisionContext) -> Iterator[Block]:
    """The candidate and its rival, class by class of the answers."""
    arm, rival = story.candidate, story.rival
    names = [name for name in arm.metrics if name.startswith(CLASS_F1)] if arm and rival else []
    if arm is None or rival is None or not names:
        return
    rows, marks = [], []
    for name in names:
        mine, theirs = arm.metrics[name], rival.metrics.get(name)
        gain = "" if theirs is None else f"{(mine.value - theirs.value) * 100:+.1f} points"
        label = name.removeprefix(CLASS_F1)
        rows.append([label, measure_text(mine), measure_text(theirs), gain])
        marks.append(chart.Mark(label, mine.value, *mine.interval_95, gain.removesuffix(" points"), chart.CANDIDATE))
    yield Heading("Classes of the answers, by F1")
    yield Table(["class", arm.name, rival.name, "difference"], rows)
    yield Charts([chart.intervals(f"F1 of {arm.name} by class", marks, 0.0, 1.0)])


def human(story: DecisionContext) -> Iterator[Block]:
    """What people said who did not know which arm they read."""
    human = story.report.human
    if not human:
        return
    yield Heading("Blind judgement by people")
    yield Words(str(human.get("sentence", "")))
    rows = [
        [words(name), _text(human[name])]
        for name in ("raters", "rated", "won", "lost", "tied", "identical")
        if name in human
    ]
    agreement = human.get("agreement") or {}
    if agreement.get("alpha") is not None:
        rows.append(["agreement (Krippendorff's alpha)", f"{agreement['alpha']:.2f} over {agreement['items']} items"])
    if human.get("p_value") is not None:
        rows.append(["sign test, two-sided", f"p = {human['p_value']:.3g}"])
    yield Table(["", str(human.get("arm", ""))], rows)


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def costs(story: DecisionContext) -> Iterator[Block]:
    """What each arm costs, and what a right answer does."""
    arms = story.report.arms
    yield Heading("What it costs")
    if story.report.gate.cost_saving:
        yield Words(story.report.gate.cost_saving)
    yield Table(
        ["arm", "this comparison", "per request", "per correct answer", "priced by"],
        [
            [
                arm.name,
                usd(arm.cost_nano_usd.total),
                usd(arm.cost_nano_usd.per_request),
                _per_correct(arm),
                basis_word(arm),
            ]
            for arm in arms
        ],
    )
    if said := basis_sentence(arms, story.report.created_at):
        yield Words(said)
    bars = [
        (arm.name, cost / NANO, usd(cost), _colour(story, arm))
        for arm in arms
        if (cost := arm.cost_nano_usd.per_correct)
    ]
    yield Charts([chart.bars("USD per correct answer", bars)])


def _colour(story: DecisionContext, arm: Arm) -> str:
    """The same arm has the same colour in every chart."""
    if story.candidate and arm.name == story.candidate.name:
        return chart.CANDIDATE
    return chart.RIVAL if story.rival and arm.name == story.rival.name else chart.OTHER


def _per_correct(arm: Arm) -> str:
    cost = arm.cost_nano_usd
    return usd(cost.per_correct) if cost.per_correct is not None else UNPRICED if cost.total is None else "none correct"


def examples(story: DecisionContext) -> Iterator[Block]:
    """Items that only one of the two got right."""
    examples, arm, rival = story.report.examples, story.candidate, story.rival
    names = (rival.name if rival else "before", arm.name if arm else "after")
    for title, items in (
        (f"Won: only {names[1]} was right", examples.won),
        (f"Lost: only {names[0]} was right", examples.lost),
    ):
        if items:
            yield Heading(title)
        for item in items:
            answers = ((names[0], item.before), (names[1], item.after))
            yield Sides(f"line {item.line}", item.prompt, item.expected, answers)
