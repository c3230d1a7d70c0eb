"""Print a report on the terminal: arms side by side with intervals, the checks of the gate, the verdict."""

from collections.abc import Callable

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from trainer.eval.costs import basis_sentence, basis_word
from trainer.eval.report import Arm, Check, ComparisonReport, Gate, VerdictWord
from trainer.eval.task import LENGTH
from turntable.console import Table

_COLOURS = {VerdictWord.PROMOTE: "green", VerdictWord.DO_NOT_DEPLOY: "red", VerdictWord.NOT_ENOUGH_ITEMS: "yellow"}
_MARKS = {True: ("✓", "green"), False: ("✗", "red"), None: ("?", "yellow")}
_MEANINGS = {
    VerdictWord.PROMOTE: "It may go live.",
    VerdictWord.DO_NOT_DEPLOY: "Keep the current version; this result has saved a deployment.",
    VerdictWord.NOT_ENOUGH_ITEMS: "The checks are inconclusive at this sample size; add test examples.",
}


def print_report(report: ComparisonReport, console: Console) -> None:
    """Print the whole report."""
    console.print(_arms(report).render(console.width), soft_wrap=True, highlight=False, markup=False)
    if basis := basis_sentence(report.arms, report.created_at):
        console.print(basis, soft_wrap=True, highlight=False, markup=False)
    if report.gate.verdict is not None:
        console.print(_verdict(report.gate))
    elif report.gate.summary:
        console.print(report.gate.summary, soft_wrap=True)


def _arms(report: ComparisonReport) -> Table:
    table = Table("", *(arm.name for arm in report.arms), title=f"{report.task.name}, {report.task.items} items")
    for name in report.arms[0].metrics:
        table.add(_LABELS.get(name, name), *(_cell(arm, name) for arm in report.arms))
    rows: dict[str, Callable[[Arm], str]] = {
        "latency p50 / p95": lambda arm: f"{arm.latency_ms.p50:,.0f} / {arm.latency_ms.p95:,.0f} ms",
        "tokens in / out": lambda arm: f"{arm.tokens.prompt:,} / {arm.tokens.completion:,}",
        "USD per 1,000 requests": lambda arm: _usd(arm.cost_nano_usd.per_request),
        "USD per 1,000 correct": _per_correct,
        "priced by": basis_word,
        "answered": lambda arm: f"{report.task.items - len(arm.failed)} of {report.task.items}",
    }
    for label, cell in rows.items():
        table.add(label, *(cell(arm) for arm in report.arms))
    for name, value in _facts(report).items():
        table.add(name, *value)
    return table


_LABELS = {
    "correct": "correct",
    "schema_valid": "schema-valid",
    "stopped": "EOS rate",
    LENGTH: "tokens of an answer",
    "field_accuracy": "fields right",
    "f1_macro": "F1, macro",
    "judge": "preferred by the judge",
}


def _cell(arm: Arm, name: str) -> str:
    one = arm.metrics.get(name)
    if one is None:
        return "-"
    low, high = one.interval_95
    if name == LENGTH:
        return f"{one.value:,.1f}  ({low:,.0f} to {high:,.0f})"
    return f"{one.value:6.1%}  ({low:.0%} to {high:.0%})"


def _facts(report: ComparisonReport) -> dict[str, list[str]]:
    """Rows that only some arms have: recall of the search, cross-entropy on general text."""
    names = {
        name: name.replace("_", " ")
        for arm in report.arms
        for name in arm.settings
        if name.startswith("recall_at_") or name == "general_text_cross_entropy"
    }
    return {label: [_fact(arm.settings.get(name)) for arm in report.arms] for name, label in names.items()}


def _fact(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-"


def _per_correct(arm: Arm) -> str:
    cost = arm.cost_nano_usd
    return "never right" if cost.per_correct is None and cost.per_request is not None else _usd(cost.per_correct)


def _usd(nano_usd: int | None) -> str:
    return "unpriced" if nano_usd is None else f"{nano_usd / 1e6:,.4f}"


def _verdict(gate: Gate) -> Panel:
    assert gate.verdict is not None
    colour = _COLOURS[gate.verdict]
    lines = [Text(gate.summary), Text(_MEANINGS[gate.verdict], style="dim"), Text()]
    lines += [_check(check) for check in gate.checks]
    lines += [Text(), Text(gate.cost_saving)] if gate.cost_saving else []
    title = Text(f" {gate.verdict.replace('_', ' ')} ", style=f"bold {colour}")
    return Panel(Group(*lines), title=title, subtitle=f"{gate.arm} against {gate.against}", border_style=colour)


def _check(check: Check) -> Text:
    mark, colour = _MARKS[check.passed]
    return Text.assemble((f"{mark} ", colour), (f"{check.name}: ", "bold"), check.sentence)
