"""`turntable review …`: people rate two arms' answers blindly in a browser; what they say joins the decision."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import (
    DEFAULT_DATA_DIR,
    DEFAULT_GATEWAY,
    AsJson,
    DataDir,
    Gateway,
    count,
    exit_codes,
    print_json,
)
from trainer.eval.endpoints import record_verdict
from trainer.eval.report import Report
from trainer.eval.task import read_task
from trainer.human_eval.judgement import HumanEvalResult, export_pairs
from trainer.human_eval.pairs import PairwiseEval, read_pairwise_eval
from trainer.human_eval.ratings import Ratings, Votes, read_votes
from trainer.report.context import decided, find_report, outcome, people_object

app = typer.Typer(help="Rate two arms' answers blindly, in a browser.", no_args_is_help=True)

TaskFile = Annotated[Path, typer.Argument(metavar="TASK", help="The task that was compared, a TOML file.")]
Comparison = Annotated[str | None, typer.Option(help="The comparison's report or folder; the task's newest.")]
ArmName = Annotated[str | None, typer.Option("--arm", help="The arm to judge; the one that the verdict is about.")]
Against = Annotated[str | None, typer.Option(help="The arm it is held against; the one that it had to beat.")]
Seed = Annotated[int, typer.Option(help="Draws sides and order; the same for rating, results and export.")]


@app.command()
def rate(
    task_file: TaskFile,
    comparison: Comparison = None,
    arm: ArmName = None,
    against: Against = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The page's port; 0 takes a free one.")] = 0,
    show_expected: Annotated[
        bool, typer.Option("--show-expected", help="Show the expected answer as well; it guides, and it sways.")
    ] = False,
    seed: Seed = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Serve the rating page on this machine until Ctrl-C; every rating is kept at once, and raters can go on later."""
    from trainer.human_eval.server import Session, serving

    with exit_codes("interrupted; every rating is kept"):
        contest = _contest(task_file, comparison, arm, against, seed, data_dir)
        with Ratings(contest) as ratings:
            with serving(Session(contest, ratings, show_expected=show_expected), port) as url:
                typer.echo(f"{count(len(contest.pairs), 'item')} to rate, {len(contest.identical)} were answered alike")
                typer.echo(f"open {url} (Ctrl-C ends)")
                with _until_interrupted():
                    threading.Event().wait()
            votes = ratings.votes()
        judgement = _keep(contest, votes) if votes else None
    typer.echo(f"{judgement.sentence} It is in {contest.report}." if judgement else "nothing was rated")


@app.command()
def results(
    task_file: TaskFile,
    comparison: Comparison = None,
    arm: ArmName = None,
    against: Against = None,
    seed: Seed = 0,
    record_it: Annotated[
        bool, typer.Option("--record", help="Bring the verdict with people's judgement to the gateway.")
    ] = False,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Sum the ratings up and put them into the comparison's report; exit code 1 when people prefer the other arm."""
    with exit_codes("interrupted"):
        contest = _contest(task_file, comparison, arm, against, seed, data_dir)
        judgement = _keep(contest, read_votes(contest))
        report = Report.read(contest.report)
        if record_it:
            typer.echo(f"recorded on {record_verdict(decided(report), gateway, data_dir)}", err=True)
    if as_json:
        print_json(judgement.as_json())
    else:
        _show(judgement, report)
    if people_object(report):
        sys.exit(1)


@app.command()
def export(
    task_file: TaskFile,
    out: Annotated[Path, typer.Option(help="The JSON Lines file to write.")],
    comparison: Comparison = None,
    arm: ArmName = None,
    against: Against = None,
    seed: Seed = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write what most raters preferred as preference pairs for method = "dpo"."""
    with exit_codes("interrupted; nothing was written"):
        contest = _contest(task_file, comparison, arm, against, seed, data_dir)
        written = export_pairs(contest, read_votes(contest), out)
    typer.echo(f"{out}: {count(written.rows, 'pair')}, {written.ties} ties and {written.empty} empty answers left out")
    typer.echo(
        "warning: these are rows of the task's test data; an adapter that learns them needs other rows to be judged on",
        err=True,
    )


def _contest(
    task_file: Path, comparison: str | None, arm: str | None, against: str | None, seed: int, data_dir: Path
) -> PairwiseEval:
    task = read_task(task_file)
    path = find_report(comparison or task.name, data_dir)
    return read_pairwise_eval(task, path, arm=arm, against=against, seed=seed)


def _keep(contest: PairwiseEval, votes: Votes) -> HumanEvalResult:
    """Put what the ratings say into the report."""
    judgement = HumanEvalResult.of(contest, votes)
    Report.read(contest.report).model_copy(update={"human": judgement.as_json()}).save(contest.report)
    return judgement


def _show(judgement: HumanEvalResult, report: Report) -> None:
    typer.echo(judgement.sentence)
    typer.echo(
        f"{judgement.rated} of {judgement.items} items rated by {count(judgement.raters, 'rater')}: "
        f"{judgement.won} won, {judgement.lost} lost, {judgement.tied} tied; {judgement.identical} answered alike"
    )
    if judgement.preference is not None:
        low, high = judgement.preference.interval_95
        typer.echo(
            f"preferred on {judgement.preference.value:.0%} ({low:.0%} to {high:.0%}), p = {judgement.p_value:.3g}"
        )
    if judgement.agreement.alpha is not None:
        typer.echo(
            f"agreement: Krippendorff's alpha {judgement.agreement.alpha:.2f} over {judgement.agreement.items} items"
        )
    verdict = outcome(report)
    typer.echo(f"{verdict.words}: {verdict.sentence}")


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C is how a rating session ends; a shell in the background would have it ignored, and `kill` is as good."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("")
