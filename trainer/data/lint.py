"""The whole check of some files before a run: one pass over them, the comparisons, and what follows from both."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.data import findings
from trainer.data.comparisons import Comparisons, compare
from trainer.data.estimate import CHARACTERS_PER_TOKEN, Estimate, Machine, estimate
from trainer.data.findings import AMBER, RED, Finding, Grade, Task, guess_task, judge_size, verdict
from trainer.data.labels import Balance
from trainer.data.near_duplicates import DEFAULT_SIMILARITY, NearDuplicateIndex
from trainer.data.rendering import TokenLengths, measure_lengths
from trainer.data.scan import Columns, FileScan, Scanner

if TYPE_CHECKING:
    from trainer.training.loss_mask import Renderer


@dataclass(frozen=True)
class LintOptions:
    """What to check beside the rows themselves; without `renderer` lengths are not measured and tokens are guessed."""

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


@dataclass(frozen=True)
class LintReport:
    """What the check of some files found; the first file is the one that is trained on."""

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


def lint_files(paths: Sequence[Path], wanted: LintOptions) -> LintReport:
    """Check files of any size together; nothing in them raises an exception."""
    with NearDuplicateIndex() as index:
        longest = wanted.max_length if wanted.renderer is None else None
        scanner = Scanner(index, label_field=wanted.label_field, group_field=wanted.group_field, longest=longest)
        for path in paths:
            scanner.scan(path)
        columns = scanner.columns()
        compared = compare(columns, *index.clusters(columns.near, wanted.similarity))
    lengths = None
    if wanted.renderer is not None and len(columns):
        lengths = measure_lengths(scanner.files, columns, wanted.renderer, wanted.max_length)
    balances = scanner.labels.balances
    found = [
        *findings.problem_findings(scanner.files),
        *(findings.length_findings(lengths) if lengths else ()),
        *findings.contradiction_findings(scanner, columns, compared),
        *findings.content_findings(scanner),
        *findings.rating_findings(scanner, columns),
        *findings.sign_findings(scanner, rendered=lengths is not None),
        *findings.copy_findings(scanner.files, columns, compared),
        *findings.balance_findings(balances),
        *findings.held_out_findings(scanner.files),
        *_size(scanner, wanted, columns),
    ]
    spent = _estimate(scanner, wanted, columns, lengths) if len(columns) else None
    return LintReport(tuple(scanner.files), columns, compared, tuple(found), balances, lengths, spent)


def _size(scanner: Scanner, wanted: LintOptions, columns: Columns) -> list[Finding]:
    """The size of the first file; a guessed task is no reason to fail."""
    task = wanted.task or guess_task(scanner.labels)
    if task is None or not len(columns):
        return []
    found = judge_size(task, len(np.unique(columns.row[columns.file == 0])), scanner.labels.balances)
    if wanted.task is None and found.grade == RED:
        message = f"{found.message} (the kind of task is guessed from the outputs; say it with --task)"
        found = Finding(AMBER, found.name, found.count, message)
    return [found]


def _estimate(scanner: Scanner, wanted: LintOptions, columns: Columns, lengths: TokenLengths | None) -> Estimate:
    share = float((columns.file == 0).mean())
    if lengths is not None and lengths.rendered:
        tokens, source = lengths.tokens_of_all, "rendered" if lengths.rendered == lengths.rows else "sampled"
    else:
        tokens, source = (
            scanner.characters // CHARACTERS_PER_TOKEN,
            f"guessed: {CHARACTERS_PER_TOKEN} characters a token",
        )
    return estimate(
        round(tokens * share),
        source,
        wanted.epochs,
        runs=wanted.runs,
        base=wanted.base,
        usd_per_hour=wanted.usd_per_hour,
        machine=wanted.machine,
    )
