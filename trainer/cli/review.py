"""`turntable review`: blind pairwise ratings of two arms' answers in a browser, and their result in the report."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from trainer.cli.options import trainer_app
from trainer.eval.endpoints import record_verdict
from trainer.eval.report import ComparisonReport
from trainer.eval.task import read_task
from trainer.human_eval.judgement import HumanEvalResult, export_pairs
from trainer.human_eval.pairs import PairwiseEval, read_pairwise_eval
from trainer.human_eval.ratings import RatingStore, Votes, read_votes
from trainer.report.context import decided, find_report, outcome, people_object
from turntable.console import FAILED, count, print_json
from turntable.options import DEFAULT_DATA_DIR, DEFAULT_GATEWAY, AsJson, DataDir, Gateway

app = trainer_app(help="Rate pairs of answers blindly, in a browser.", no_args_is_help=True)

TaskFile = Annotated[Path, typer.Argument(metavar="TASK", help="The task file (TOML) of the comparison.")]
Comparison = Annotated[
    str | None, typer.Option(help="The report or folder of the comparison.", show_default="the newest of the task")
]
ArmName = Annotated[
    str | None, typer.Option("--arm", help="The arm to rate.", show_default="the one that the verdict is about")
]
Against = Annotated[
    str | None, typer.Option(help="The arm to compare it with.", show_default="the one that the verdict compares with")
]
Seed = Annotated[int, typer.Option(help="Random seed of sides and order; use the same for rate, results and export.")]


@app.command(interrupted="interrupted; every rating is kept")
def rate(
    task_file: TaskFile,
    comparison: Comparison = None,
    arm: ArmName = None,
    against: Against = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the rating page; 0 takes a free one.")] = 0,
    show_expected: Annotated[
        bool, typer.Option("--show-expected", help="Show the expected answer; it helps raters and biases them.")
    ] = False,
    seed: Seed = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Serve the rating page on this machine until Ctrl-C; ratings are saved at once and can be continued."""
    from trainer.human_eval.server import Session, serving

    contest = _contest(task_file, comparison, arm, against, seed, data_dir)
    with RatingStore(contest) as ratings:
        with serving(Session(contest, ratings, show_expected=show_expected), port) as url:
            typer.echo(f"{count(len(contest.pairs), 'item')} to rate, {len(contest.identical)} have identical answers")
            typer.echo(f"open {url} (Ctrl-C ends)")
            with _until_interrupted():
                threading.Event().wait()
        votes = ratings.votes()
    judgement = _save(contest, votes) if votes else None
    typer.echo(f"{judgement.sentence} It is in {contest.report}." if judgement else "no ratings yet")


@app.command()
def results(
    task_file: TaskFile,
    comparison: Comparison = None,
    arm: ArmName = None,
    against: Against = None,
    seed: Seed = 0,
    record_it: Annotated[
        bool, typer.Option("--record", help="Record the verdict, with the ratings, on the gateway.")
    ] = False,
    gateway: Gateway = DEFAULT_GATEWAY,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Add the result of the ratings to the comparison's report; exit code 1 when raters prefer the other arm."""
    contest = _contest(task_file, comparison, arm, against, seed, data_dir)
    judgement = _save(contest, read_votes(contest))
    report = ComparisonReport.read(contest.report)
    if record_it:
        typer.echo(f"recorded on {record_verdict(decided(report), gateway, data_dir)}", err=True)
    if as_json:
        print_json(judgement.as_json())
    else:
        _show(judgement, report)
    if people_object(report):
        raise typer.Exit(FAILED)


@app.command(interrupted="interrupted; nothing was written")
def export(
    task_file: TaskFile,
    out: Annotated[Path, typer.Option(help="The JSONL file to write.")],
    comparison: Comparison = None,
    arm: ArmName = None,
    against: Against = None,
    seed: Seed = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Write the preferred answers as preference pairs, for training with method = "dpo"."""
    contest = _contest(task_file, comparison, arm, against, seed, data_dir)
    written = export_pairs(contest, read_votes(contest), out)
    typer.echo(f"{out}: {count(written.rows, 'pair')}, {written.ties} ties and {written.empty} empty answers left out")
    typer.echo(
        "warning: these pairs are from the task's test data; evaluate an adapter trained on them with other test data",
        err=True,
    )


def _contest(
    task_file: Path, comparison: str | None, arm: str | None, against: str | None, seed: int, data_dir: Path
) -> PairwiseEval:
    task = read_task(task_file)
    path = find_report(comparison or task.name, data_dir)
    return read_pairwise_eval(task, path, arm=arm, against=against, seed=seed)


def _save(contest: PairwiseEval, votes: Votes) -> HumanEvalResult:
    """Write the result of the ratings into the report."""
    judgement = HumanEvalResult.of(contest, votes)
    ComparisonReport.read(contest.report).model_copy(update={"human": judgement.as_json()}).save(contest.report)
    return judgement


def _show(judgement: HumanEvalResult, report: ComparisonReport) -> None:
    typer.echo(judgement.sentence)
    typer.echo(
        f"{judgement.rated} of {judgement.items} items rated by {count(judgement.raters, 'rater')}: "
        f"{judgement.won} won, {judgement.lost} lost, {judgement.tied} tied; {judgement.identical} identical answers"
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
    """Return on Ctrl-C or SIGTERM, which end a rating session; also where a background shell ignores SIGINT."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("")
