"""The sections of a decision's report, from the verdict down to the lineage."""

from collections.abc import Iterator

from trainer.advice.advice import spoken
from trainer.advice.rules import articles_in
from trainer.report import evidence
from trainer.report.blocks import Block, Facts, Heading, Table, Words
from trainer.report.context import DecisionContext, outcome
from trainer.report.figures import words


def sections(story: DecisionContext) -> Iterator[Block]:
    """The whole report."""
    report = story.report
    yield Words(f"Task {report.task.name}, {report.task.items:,} held-out items, {report.created_at}.")
    yield outcome(report)
    yield from _reservations(story)
    yield from _question(story)
    yield from _data(story)
    yield from evidence.arms(story)
    yield from evidence.gate(story)
    yield from evidence.slices(story)
    yield from evidence.classes(story)
    yield from evidence.human(story)
    yield from evidence.costs(story)
    yield from evidence.examples(story)
    yield from _lineage(story)


def _reservations(story: DecisionContext) -> Iterator[Block]:
    """What a reader has to know before anything else."""
    report = story.report
    if not report.complete:
        failed = sum(len(arm.failed) for arm in report.arms)
        yield Words(f"The figures are partial: {failed:,} requests got no answer, so there is no verdict.", note=True)
    if report.task.changed:
        yield Words(f"The task is not the one that was frozen: {', '.join(report.task.changed)} differs.", note=True)
    elif report.task.frozen_at is None:
        yield Words("The task was not frozen before training, so it may have been chosen to fit.", note=True)
    if story.data_changed:
        yield Words("The training file has changed since it was trained on; its check tells of today's.", note=True)
    despite = ((story.run or {}).get("advice") or {}).get("despite")
    if despite:
        yield Words(f"Trained against the advice, for this reason: {despite}", note=True)


def _question(story: DecisionContext) -> Iterator[Block]:
    yield Heading("The question")
    advice = story.advice
    if advice is None:
        yield Words("Nobody asked `turntable advise` whether this should be fine-tuned at all.")
        return
    said = {name: value for name, value in advice.case.model_dump(exclude_none=True).items() if name != "name"}
    yield Words(f"Should this be fine-tuned at all? {spoken(advice.answer)}, because {advice.decided.because}.")
    rows = [("rule", f"{advice.decided.rule}: {advice.decided.number}"), ("source", advice.decided.source)]
    rows += [("disputed", advice.decided.disputed)] if advice.decided.disputed else []
    rows += [("articles", "; ".join(articles_in(f"{advice.decided.source} {advice.decided.disputed}")))]
    rows += [("would change it", advice.decided.change), ("asked", advice.created_at[:10])]
    yield Facts([*rows, *((words(name), _value(value)) for name, value in said.items())])


def _value(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _data(story: DecisionContext) -> Iterator[Block]:
    if story.run is None:
        return
    yield Heading("The data")
    sides = story.run["data"]
    rows = [
        [name, str(side["file"] or "part of train"), f"{side['rows']:,}", str(side["sha256"] or "")[:12]]
        for name, side in sides.items()
        if side["rows"]
    ]
    task = story.report.task
    yield Table(
        ["", "file", "rows", "sha256"], [*rows, ["test", f"task {task.name}", f"{task.items:,}", task.sha256[:12]]]
    )
    if story.data is not None:
        yield Words(f"Checked: {story.data.verdict}; {story.data.examples:,} different rows to train on.")
        yield Table(
            ["grade", "finding", "rows", "what it means"],
            [[one.grade, words(one.name), f"{one.count:,}", one.message] for one in story.data.findings],
        )


def _lineage(story: DecisionContext) -> Iterator[Block]:
    report, run = story.report, story.run or {}
    yield Heading("Where it comes from")
    candidate = story.candidate
    rows = [
        ("adapter", f"{candidate.name} ({candidate.model})" if candidate else ""),
        ("digest", candidate.digest if candidate else None),
        ("task", f"{report.task.name}, sha256 {report.task.sha256}, frozen {report.task.frozen_at or 'never'}"),
        ("base as served", f"{report.base.model}, sha256 {report.base.base_sha256 or 'not known'}"),
        ("chat template", report.base.template_sha256),
        ("run", story.run_name),
        (
            "base trained on",
            run.get("base_weights_sha256") and f"{run['base_model']}, sha256 {run['base_weights_sha256']}",
        ),
        ("recipe", run.get("recipe_sha256") and f"{run['name']}, {run['method']}, sha256 {run['recipe_sha256']}"),
        ("training data", run.get("data") and f"sha256 {run['data']['train']['sha256']}"),
        ("trained", run.get("finished_at")),
        ("comparison", story.path.name),
    ]
    yield Facts([(name, str(value)) for name, value in rows if value])
    if not run and candidate and candidate.digest:
        yield Words("The run of this adapter is not on this machine, so its data and recipe cannot be shown.")
