"""The row pipeline of `turntable data check` and `turntable train`: load, check rows, compare, findings.

    scan.py         one pass over the files: every row is read and checked (loaders.py, row_checks.py)
    comparisons.py  duplicates, leakage between files and contradictions, over the columns of the scan
    findings.py     what that means, graded green, amber or red
    lint.py         the order of these steps, and the refusal of red data

`turntable data check` prints the findings. `turntable train` stops on the red ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.data import findings
from trainer.data.comparisons import Comparisons, compare
from trainer.data.estimate import CHARACTERS_PER_TOKEN, Estimate, Machine, estimate
from trainer.data.findings import ACCEPTABLE, AMBER, RED, Finding, Grade, Task, guess_task, judge_size, verdict
from trainer.data.labels import Balance
from trainer.data.loaders import Kind
from trainer.data.near_duplicates import DEFAULT_SIMILARITY, NearDuplicateIndex
from trainer.data.rendering import TokenLengths, measure_lengths
from trainer.data.scan import Columns, FileScan, Scanner
from trainer.errors import DataError, Problem

if TYPE_CHECKING:
    from trainer.training.loss_mask import Renderer


@dataclass(frozen=True)
class LintOptions:
    """What to check beside the rows themselves.

    Without `renderer`, token lengths are estimated from characters. `kind` refuses rows of the other kind.
    `for_training` keeps the parsed rows, makes no estimate, and leaves to the rendering of all rows what it decides.
    """

    renderer: "Renderer | None" = None
    base: str | None = None
    runs: Path = Path("var/runs")
    max_length: int = 1024
    epochs: int = 3
    task: Task | None = None
    label_field: str | None = None
    group_field: str | None = None
    similarity: float = DEFAULT_SIMILARITY
    usd_per_hour: float | None = None
    machine: Machine = field(default_factory=Machine)
    kind: Kind | None = None
    for_training: bool = False


@dataclass(frozen=True)
class LintReport:
    """The result of checking some files; the first one is the training file."""

    files: tuple[FileScan, ...]
    columns: Columns
    comparisons: Comparisons
    findings: tuple[Finding, ...]
    balances: tuple[Balance, ...]
    lengths: TokenLengths | None
    estimate: Estimate | None

    @property
    def verdict(self) -> Grade:
        """The worst grade of all findings."""
        return verdict(self.findings)


def lint_files(paths: Sequence[Path], options: LintOptions) -> LintReport:
    """Check files of any size together; a defect of the data is a finding, never an exception."""
    renderer, training = options.renderer, options.for_training
    with NearDuplicateIndex() as index:
        scanner = Scanner(
            index,
            kind=options.kind,
            keep_rows=training,
            label_field=options.label_field,
            group_field=options.group_field,
            max_length=options.max_length if renderer is None else None,
        )
        for path in paths:
            scanner.scan(path)
        columns = scanner.columns()
        compared = compare(columns, *index.clusters(columns.near, options.similarity))
    lengths = None
    if renderer is not None and len(columns):
        lengths = measure_lengths(scanner.files, columns, renderer, options.max_length)
    found = _findings(scanner, columns, compared, lengths, options)
    spent = _estimate(scanner, options, columns, lengths) if len(columns) and not training else None
    return LintReport(tuple(scanner.files), columns, compared, found, scanner.labels.balances, lengths, spent)


def refuse_red(report: LintReport, despite: str | None = None) -> None:
    """Raise `DataError` with every red finding; with the reason `despite`, only with those that no reason accepts."""
    accepts = bool(despite and despite.strip())
    refused = [one for one in report.findings if one.grade == RED and not (accepts and one.name in ACCEPTABLE)]
    if problems := [problem for finding in refused for problem in _problems(report, finding)]:
        raise DataError(problems)


def _problems(report: LintReport, finding: Finding) -> Iterator[Problem]:
    """Name every bad row; of other findings the text, with the option that accepts it, and the first places."""
    if finding.name == "problems":
        yield from (problem for file in report.files for problem in file.problems)
        return
    accept = " (to train on them all the same: --despite-data REASON)" if finding.name in ACCEPTABLE else ""
    yield Problem(str(report.files[0].path), None, f"{finding}{accept}")
    yield from finding.places


def _findings(
    scanner: Scanner, columns: Columns, compared: Comparisons, lengths: TokenLengths | None, options: LintOptions
) -> tuple[Finding, ...]:
    balances = scanner.labels.balances
    return (
        *findings.problem_findings(scanner.files),
        *(findings.length_findings(lengths) if lengths else ()),
        *(() if options.kind == "ratings" else findings.conflict_findings(scanner, columns, compared)),
        *findings.content_findings(scanner),
        *findings.rating_findings(scanner, columns),
        *findings.sign_findings(scanner, rendered=lengths is not None or options.for_training),
        *findings.duplicate_findings(scanner.files, columns, compared),
        *findings.balance_findings(balances),
        *(() if options.for_training else findings.held_out_findings(scanner.files)),
        *(() if options.for_training else _size(scanner, options, columns)),
    )


def _size(scanner: Scanner, options: LintOptions, columns: Columns) -> list[Finding]:
    """Grade the size of the first file; a guessed task gives no red finding."""
    task = options.task or guess_task(scanner.labels)
    if task is None or not len(columns):
        return []
    found = judge_size(task, len(np.unique(columns.row[columns.file == 0])), scanner.training_balances)
    if options.task is None and found.grade == RED:
        message = f"{found.message} (the kind of task is guessed from the outputs; set it with --task)"
        found = Finding(AMBER, found.name, found.count, message)
    return [found]


def _estimate(scanner: Scanner, options: LintOptions, columns: Columns, lengths: TokenLengths | None) -> Estimate:
    share = float((columns.file == 0).mean())
    if lengths is not None and lengths.rendered:
        tokens, source = lengths.tokens_of_all, "rendered" if lengths.rendered == lengths.rows else "sampled"
    else:
        tokens = scanner.characters // CHARACTERS_PER_TOKEN
        source = f"guessed: {CHARACTERS_PER_TOKEN} characters a token"
    return estimate(
        round(tokens * share),
        source,
        options.epochs,
        runs=options.runs,
        base=options.base,
        usd_per_hour=options.usd_per_hour,
        machine=options.machine,
    )
