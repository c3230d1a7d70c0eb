"""A decision as an HTML page and as Markdown: the verdict, its evidence, costs, data and lineage."""

from collections.abc import Iterator
from typing import Any

from trainer.advice.advice import spoken
from trainer.advice.rules import articles_in
from trainer.eval.costs import basis_sentence, basis_word
from trainer.report import evidence
from trainer.report.context import DecisionContext, outcome
from trainer.report.figures import words
from turntable.pages import render
from turntable.pages.tables import PageTable


def html_page(context: DecisionContext) -> str:
    """Render the page; it runs and loads nothing, even if a text of a model got past the escaping."""
    return render.page("trainer.report/page.html", **_values(context))


def markdown(context: DecisionContext) -> str:
    """Render Markdown for a repository or a ticket: the tables without the charts."""
    return render.markdown("trainer.report/page.md", **_values(context))


def _values(context: DecisionContext) -> dict[str, Any]:
    report = context.report
    made = report.created_at[:16].replace("T", " ")
    metrics, gain = evidence.metric_charts(context), evidence.gain_chart(context)
    slices, slices_chart = evidence.slices(context)
    classes, classes_chart = evidence.classes(context)
    cost_chart = evidence.cost_chart(context)
    return {
        "title": f"Decision: {report.task.name}",
        "lead": f"Task {report.task.name}, {report.task.items:,} eval examples, {made} UTC.",
        "verdict": outcome(report),
        "tiles": list(evidence.tiles(context)),
        "warnings": list(_warnings(context)),
        "gate": report.gate,
        "checks": evidence.checks(context),
        "charts": [*metrics[:1], *([gain] if gain else [])],
        "metric_charts": metrics[1:],
        "arms": evidence.arms_table(report.arms),
        "differences": evidence.differences_table(context),
        "gate_metric": words(context.gate_metric),
        "slices": slices,
        "slices_charts": [slices_chart] if slices_chart else [],
        "classes": classes,
        "classes_charts": [classes_chart] if classes_chart else [],
        "human_sentence": str((report.human or {}).get("sentence", "")),
        "human": evidence.human_table(context),
        "costs": evidence.costs_table(report.arms, map(basis_word, report.arms)),
        "costs_basis": basis_sentence(report.arms, report.created_at),
        "cost_charts": [cost_chart] if cost_chart else [],
        "examples": list(_examples(context)),
        **_question(context),
        **_data(context),
        "lineage": list(_lineage(context)),
        "has_lost_run": bool(not context.run and context.candidate and context.candidate.digest),
    }


def _warnings(context: DecisionContext) -> Iterator[str]:
    """What a reader has to know before anything else."""
    report = context.report
    if not report.complete:
        failed = sum(len(arm.failed) for arm in report.arms)
        yield f"The figures are partial: {failed:,} requests got no answer, so there is no verdict."
    if report.task.changed:
        yield f"The task is not the one that was frozen: {', '.join(report.task.changed)} differs."
    elif report.task.frozen_at is None:
        yield "The task was not frozen before training, so it may have been chosen to fit."
    if context.data_changed:
        yield "The training file has changed since it was trained on; its check is about today's file."
    despite = ((context.run or {}).get("advice") or {}).get("despite")
    if despite:
        yield f"Trained against the advice, for this reason: {despite}"


def _examples(context: DecisionContext) -> Iterator[dict[str, Any]]:
    """Examples that only one of the two got right, with both answers."""
    shown, arm, rival = context.report.examples, context.candidate, context.rival
    before, after = rival.name if rival else "before", arm.name if arm else "after"
    for title, items in (
        (f"Won: only {after} was correct", shown.won),
        (f"Lost: only {before} was correct", shown.lost),
    ):
        rows = [
            {
                "line": f"line {item.line}",
                "prompt": item.prompt,
                "expected": item.expected,
                "answers": [(before, item.before), (after, item.after)],
            }
            for item in items
        ]
        if rows:
            yield {"title": title, "rows": rows}


def _question(context: DecisionContext) -> dict[str, Any]:
    """What `turntable advise` said to whether this should be fine-tuned."""
    advice = context.advice
    if advice is None:
        return {"question": "`turntable advise` was not asked whether this should be fine-tuned.", "advice": []}
    facts = {name: value for name, value in advice.case.model_dump(exclude_none=True).items() if name != "name"}
    rows = [("rule", f"{advice.decided.rule}: {advice.decided.number}"), ("source", advice.decided.source)]
    rows += [("disputed", advice.decided.disputed)] if advice.decided.disputed else []
    rows += [("articles", "; ".join(articles_in(f"{advice.decided.source} {advice.decided.disputed}")))]
    rows += [("would change it", advice.decided.change), ("asked", advice.created_at[:10])]
    rows += [(words(name), _value(value)) for name, value in facts.items()]
    question = f"Should this be fine-tuned at all? {spoken(advice.answer)}, because {advice.decided.because}."
    return {"question": question, "advice": rows}


def _value(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _data(context: DecisionContext) -> dict[str, Any]:
    """The files that were trained and evaluated on, and what `turntable data check` finds in them."""
    files, findings, checked, task = PageTable([], []), PageTable([], []), "", context.report.task
    if context.run is not None:
        rows = [
            [name, str(side["file"] or "part of train"), f"{side['rows']:,}", str(side["sha256"] or "")[:12]]
            for name, side in context.run["data"].items()
            if side["rows"]
        ]
        rows.append(["test", f"task {task.name}", f"{task.items:,}", task.sha256[:12]])
        files = PageTable(["part", "file", "rows", "sha256"], rows, text=(0, 1, 3))
    if context.data is not None:
        checked = f"Checked: {context.data.verdict}; {context.data.examples:,} different rows to train on."
        found = [[one.grade, words(one.name), f"{one.count:,}", one.message] for one in context.data.findings]
        findings = PageTable(["grade", "finding", "rows", "explanation"], found, text=(0, 1, 3))
    return {"files": files, "findings": findings, "checked": checked}


def _lineage(context: DecisionContext) -> Iterator[tuple[str, str]]:
    """Names and digests of all that the adapter was made of."""
    report, run, candidate = context.report, context.run or {}, context.candidate
    rows = [
        ("adapter", f"{candidate.name} ({candidate.model})" if candidate else ""),
        ("digest", candidate.digest if candidate else None),
        ("task", f"{report.task.name}, sha256 {report.task.sha256}, frozen {report.task.frozen_at or 'never'}"),
        ("base as served", f"{report.base.model}, sha256 {report.base.base_sha256 or 'not known'}"),
        ("chat template", report.base.template_sha256),
        ("run", context.run_name),
        (
            "base trained on",
            run.get("base_weights_sha256") and f"{run['base_model']}, sha256 {run['base_weights_sha256']}",
        ),
        ("recipe", run.get("recipe_sha256") and f"{run['name']}, {run['method']}, sha256 {run['recipe_sha256']}"),
        ("training data", run.get("data") and f"sha256 {run['data']['train']['sha256']}"),
        ("trained", run.get("finished_at")),
        ("comparison", context.path.name),
    ]
    yield from ((name, str(value)) for name, value in rows if value)
