"""Reports of `turntable data`: lint findings with the verdict, conversions, loss masks of examples, and splits."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from trainer.cli.options import show_problems
from trainer.data.estimate import Estimate
from trainer.data.lint import LintReport
from trainer.data.prepare import PrepareReport
from trainer.data.rendering import PreviewRow, TokenLengths
from trainer.data.scan import FileScan
from trainer.data.split import SplitFiles
from trainer.errors import Problem
from turntable.console import count, duration, usd

if TYPE_CHECKING:
    from trainer.training.loss_mask import RenderedExample

_SHOWN_CLASSES = 8
_SHOWN_PLACES = 5
_SIDES = ("preferred", "rejected")


def show_lint(report: LintReport) -> None:
    """Print problems and their places on standard error, and the report on standard output."""
    for file in report.files:
        show_problems(file.problems)
    for finding in report.findings:
        if finding.name != "problems":
            for place in finding.places[:_SHOWN_PLACES]:
                typer.echo(f"warning: {place}", err=True)
    for number, file in enumerate(report.files):
        typer.echo(_summary(report, number, file))
    for finding in report.findings:
        typer.echo(f"  {finding.grade:<6}{finding.name:<20}{finding.count:>8,}  {finding.message}")
    for balance in report.balances:
        counts = list(balance.counts.items())
        shown = ", ".join(f"{name} {number:,}" for name, number in counts[:_SHOWN_CLASSES])
        more = f", and {len(counts) - _SHOWN_CLASSES} more" if len(counts) > _SHOWN_CLASSES else ""
        typer.echo(f"classes ({balance.field or 'the whole output'}): {shown}{more}")
    if report.lengths is not None:
        typer.echo(_lengths(report.lengths))
    if report.estimate is not None:
        typer.echo(_estimate(report.estimate))
    typer.echo(f"verdict: {report.verdict}")


def lint_json(report: LintReport) -> dict[str, Any]:
    """A lint report as JSON."""
    shared = [place for finding in report.findings if finding.name == "leakage" for place in finding.places]
    return {
        "verdict": report.verdict,
        "files": [_file_json(report, number, file) for number, file in enumerate(report.files)],
        "findings": [asdict(finding) for finding in report.findings],
        "shared_rows": [asdict(place) for place in shared],
        "classes": [{"field": balance.field, "counts": balance.counts} for balance in report.balances],
        "lengths": None if report.lengths is None else _lengths_json(report.lengths),
        "estimate": None if report.estimate is None else _estimate_json(report.estimate),
    }


def show_account(account: PrepareReport) -> None:
    """Print dropped rows and warnings on standard error, and the counts on standard output."""
    show_problems(account.dropped)
    show_problems(account.warnings)
    done = "".join(f"{account.counts[name]:,} {name}, " for name in ("redacted", "trimmed") if account.counts[name])
    typer.echo(
        f"{account.out}: {count(account.written, 'row')} written of {account.read:,} read, "
        f"{account.counts['dropped']:,} dropped, {done}{count(account.warning_count, 'warning')}"
    )
    typer.echo(f"{account.path}: a log of every changed and dropped row")


def account_json(account: PrepareReport) -> dict[str, Any]:
    """The counts of a conversion as JSON; its log is a file."""
    return {
        "source": str(account.source),
        "out": str(account.out),
        "account": str(account.path),
        "read": account.read,
        "written": account.written,
        "counts": dict(account.counts),
        "skipped": [asdict(problem) for problem in account.dropped],
        "warnings": [asdict(problem) for problem in account.warnings],
    }


def show_parts(parts: SplitFiles) -> None:
    """Print the files of a split, with their classes."""
    for name, path in parts.paths.items():
        classes = ", ".join(f"{label} {number:,}" for label, number in list(parts.classes.get(name, {}).items())[:8])
        typer.echo(f"{path}: {count(parts.rows[name], 'row')}{f' ({classes})' if classes else ''}")
    total = sum(parts.rows.values())
    typer.echo(f"{total:,} rows in {count(parts.clusters, 'cluster')}, the largest of {parts.largest_cluster:,}")
    if parts.advice:
        typer.echo(f"warning: {parts.paths['test']}: {parts.advice}", err=True)


def parts_json(parts: SplitFiles) -> dict[str, Any]:
    """A split as JSON."""
    return asdict(parts) | {"advice": parts.advice, "paths": {name: str(path) for name, path in parts.paths.items()}}


def _summary(report: LintReport, number: int, file: FileScan) -> str:
    return (
        f"{file.path}: {count(file.rows, 'row')}, {count(file.problem_count, 'problem')}, "
        f"{count(len(_copies(report, number)), 'exact duplicate')}, sha256 {file.sha256[:12]}"
    )


def _copies(report: LintReport, number: int) -> list[tuple[int, int]]:
    """Lines of duplicates in one file, each with the line of the original."""
    columns, copies = report.columns, report.comparisons.duplicates
    mine = copies[columns.file[copies[:, 0]] == number]
    return [(int(columns.line[row]), int(columns.line[first])) for row, first in mine]


def _file_json(report: LintReport, number: int, file: FileScan) -> dict[str, Any]:
    warnings = [
        Problem(str(file.path), line, f"holds the same messages as line {first}")
        for line, first in _copies(report, number)
    ]
    return {
        "file": str(file.path),
        "rows": file.rows,
        "kinds": dict(file.kinds),
        "sha256": file.sha256,
        "problems": [asdict(problem) for problem in file.problems],
        "problem_count": file.problem_count,
        "warnings": [asdict(warning) for warning in warnings],
    }


def _lengths(lengths: TokenLengths) -> str:
    sampled = (
        "" if lengths.rendered == lengths.rows else f" (a sample of {lengths.rendered:,} of {lengths.rows:,} rows)"
    )
    shares = ", ".join(f"{name} {value:,}" for name, value in lengths.percentiles.items())
    learnt = f"{lengths.loss_tokens:,} of {lengths.tokens:,} tokens are loss tokens"
    return f"tokens per row: {shares or 'none'}; {learnt}; max_length {lengths.max_length:,}{sampled}"


def _lengths_json(lengths: TokenLengths) -> dict[str, Any]:
    document = asdict(lengths)
    counted = ("too_long", "unrendered", "special_tokens")
    return document | {name: len(getattr(lengths, name)) for name in counted}


def _estimate(spent: Estimate) -> str:
    first, last = ("", "") if not spent.run_usd else (f", {_usd(spent.run_usd)}", f", {_usd(spent.project_usd)}")
    price = f"and {_usd(spent.usd_per_hour)} per hour" if spent.usd_per_hour else "(no --usd-per-hour, so no money)"
    return (
        f"estimate: {spent.tokens_per_epoch:,} tokens ({spent.token_source}) x {count(spent.epochs, 'epoch')}: "
        f"{duration(spent.run_s)}{first} a run; two to three runs, as is usual, "
        f"{duration(spent.project_s[0])} to {duration(spent.project_s[1])}{last}\n"
        f"  at {spent.tokens_per_s:,.0f} tokens/s ({spent.speed_source}) {price}"
    )


def _estimate_json(spent: Estimate) -> dict[str, Any]:
    derived = ("tokens", "run_s", "run_usd", "project_s", "project_usd")
    return asdict(spent) | {name: getattr(spent, name) for name in derived}


def _usd(price: tuple[float, float] | None) -> str:
    low, high = (usd(amount, 2) for amount in price or (0.0, 0.0))
    return low if low == high else f"{low} to {high}"


def mask_text(row: PreviewRow) -> str:
    """A row as the model sees it, loss tokens green and in ⟦brackets⟧; both sides of a pair, all examples of a row."""
    parts = []
    for number, example in enumerate(row.examples):
        of = f" of {len(row.examples)}"
        name = (
            f" ({_SIDES[number]})" if row.is_pair else f" (example {number + 1}{of})" if len(row.examples) > 1 else ""
        )
        tokens = f"{len(example.input_ids)} tokens, {example.loss_tokens} loss tokens"
        heading = f"line {row.line}{name}: {tokens}, row {row.row_id[:12]}"
        parts += [typer.style(heading, bold=True), _side(example)]
    return "\n".join(parts)


def mask_json(row: PreviewRow) -> dict[str, Any]:
    """A row with its token ids and labels; the sides of a pair by name, several examples of a row as a list."""
    examples = [asdict(example) for example in row.examples]
    several = {"examples": examples} if len(examples) > 1 else examples[0]
    named = dict(zip(_SIDES, examples, strict=True)) if row.is_pair else several
    return {"line": row.line, "row_id": row.row_id} | named


def _side(side: "RenderedExample") -> str:
    text, at = "", 0
    for begin, end in side.loss_spans:
        text += typer.style(side.text[at:begin], dim=True)
        text += typer.style(f"⟦{side.text[begin:end]}⟧", fg=typer.colors.GREEN)
        at = end
    return text + typer.style(side.text[at:].rstrip("\n"), dim=True)
