"""Turning a file into one that is fit to train on, with an account of every row that was changed or left out.

Two passes, neither holding the rows in memory. The first converts, trims and redacts each row into a temporary file;
the second leaves out copies, which only show once redaction has made rows alike, and writes the result and the account.
Nothing is dropped silently: each line of the account names a row, what was done with it and why.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from trainer.data.clusters import DEFAULT_SIMILARITY, NearIndex
from trainer.data.comparisons import Comparisons, compare, same_answers
from trainer.data.conversion import convert
from trainer.data.fingerprints import fingerprint
from trainer.data.personal import NAMES
from trainer.data.placeholders import placeholders
from trainer.data.reading import Shape, shape_of
from trainer.data.redaction import Redactor
from trainer.data.rows import parse_row
from trainer.data.scan import MOST_PROBLEMS, ColumnBuilder, Columns
from trainer.data.sources import source_rows
from trainer.errors import DataError, Problem, RunError
from trainer.files import replacing

Action = Literal["dropped", "redacted", "trimmed", "kept"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What to do with personal data, and with copies: of the whole row, or of near inputs with the same output too."""

    personal: Literal["redact", "drop", "keep"] = "redact"
    duplicates: Literal["exact", "near", "keep"] = "exact"
    similarity: float = DEFAULT_SIMILARITY


@dataclass
class Account:
    """What was done; `counts` has the rows of each action, `dropped` and `warnings` the first of them as sentences."""

    source: Path
    out: Path
    path: Path
    read: int = 0
    written: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    warning_count: int = 0
    dropped: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def prepare(source: Path, out: Path, policy: Policy, *, shape: Shape | None = None, force: bool = False) -> Account:
    """Write the rows of `source` to `out` and the account beside it, as `<out>.account.jsonl`.

    Without `shape` each row is taken for what it looks like. Raises `DataError` when the file is unreadable or yields
    no row, `RunError` when `out` exists without `force`.
    """
    account = Account(source, out, out.with_name(f"{out.name}.account.jsonl"))
    for path in (out, account.path):
        if path.exists() and not force:
            raise RunError(f"{path} exists already; choose another --out or pass --force.")
    with (
        replacing(out) as rows,
        replacing(account.path) as told,
        tempfile.TemporaryFile("w+", encoding="utf-8") as staged,
    ):
        with NearIndex() as index:
            columns = _stage(account, shape, policy, staged, index)
            found = compare(columns, *index.clusters(columns.near, policy.similarity))
        _write(account, staged, _copies(columns, found, policy), _contradicted(columns, found), rows, told)
        if not account.written:
            nothing = Problem(str(source), None, "holds no rows; check that it is the right file")
            raise DataError(account.dropped or [nothing])
    return account


def _stage(account: Account, shape: Shape | None, policy: Policy, staged: IO[str], index: NearIndex) -> Columns:
    """The first pass: one line per row, `[number, events, row or null]`."""
    builder = ColumnBuilder()
    for number, content in source_rows(account.source):
        account.read += 1
        events: list[tuple[Action, str]] = []
        row = _cleaned(content, shape, policy, events)
        staged.write(json.dumps([number, events, row], ensure_ascii=True) + "\n")
        if row is not None:
            marks = fingerprint(parse_row(number, row))
            builder.add(marks, line=number)
            index.add(marks.shingles)
    return builder.build()


def _cleaned(
    content: object, shape: Shape | None, policy: Policy, events: list[tuple[Action, str]]
) -> dict[str, Any] | None:
    """The row as it will be written, or None when it is left out; `events` gets what was done."""
    try:
        if isinstance(content, ValueError):
            raise content
        row = convert(content, shape or _shape(content))
    except ValueError as reason:
        events.append(("dropped", str(reason)))
        return None
    trimmed: dict[str, Any] = _trimmed(row)
    if trimmed != row:
        events.append(("trimmed", "white space at the ends of messages"))
    redactor = Redactor()
    redacted = redactor.row(trimmed)
    if not redactor.counts:
        return trimmed
    found = "holds " + ", ".join(f"{NAMES[kind]} ({count})" for kind, count in sorted(redactor.counts.items()))
    if policy.personal == "drop":
        events.append(("dropped", found))
        return None
    events.append(("redacted" if policy.personal == "redact" else "kept", found))
    return redacted if policy.personal == "redact" else trimmed


def _write(
    account: Account,
    staged: IO[str],
    copies: dict[int, tuple[int, str]],
    contradicted: dict[int, int],
    rows: IO[str],
    told: IO[str],
) -> None:
    """The second pass: the account of every row, and every row that stays."""
    staged.seek(0)
    good = 0
    for line in staged:
        number, events, row = json.loads(line)
        if row is not None:
            if good in copies:
                first, relation = copies[good]
                events.append(("dropped", f"{relation} row {first}"))
            elif good in contradicted:
                events.append(("kept", f"asks the same as row {contradicted[good]} but answers differently"))
            good += 1
        kept = row is not None and all(action != "dropped" for action, _ in events)
        account.written += kept
        if kept:
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")
            events += (("kept", text) for text in _remains(row))
        for entry in _entries(account, number, events, row, account.written if kept else None):
            told.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _entries(
    account: Account, number: int, events: list[tuple[Action, str]], row: dict[str, Any] | None, out_line: int | None
) -> Iterator[dict[str, Any]]:
    account.counts.update({action for action, _ in events})
    for action, reason in events:
        problem = Problem(str(account.source), number, reason)
        if action == "dropped" and len(account.dropped) < MOST_PROBLEMS:
            account.dropped.append(problem)
        if action == "kept":
            account.warning_count += 1
            if len(account.warnings) < MOST_PROBLEMS:
                account.warnings.append(problem)
        identity = None if row is None else parse_row(number, row).row_id
        yield {"row": number, "action": action, "reason": reason, "out_line": out_line, "row_id": identity}


def _copies(columns: Columns, found: Comparisons, policy: Policy) -> dict[int, tuple[int, str]]:
    """Rows to leave out, each with the number of the row that stays and what it has to do with it."""
    if policy.duplicates == "keep":
        return {}
    near = same_answers(columns, found.clusters) if policy.duplicates == "near" else found.copies[:0]
    told = {int(row): (int(columns.line[first]), "asks nearly the same and answers the same as") for row, first in near}
    exact = {int(row): (int(columns.line[first]), "holds the same messages as") for row, first in found.copies}
    return told | exact


def _contradicted(columns: Columns, found: Comparisons) -> dict[int, int]:
    pairs = np.concatenate((found.same_asked, found.preferences))
    return {int(row): int(columns.line[first]) for row, first in pairs}


def _shape(content: object) -> Shape:
    shape = shape_of(content) if isinstance(content, dict) else "messages"
    if shape is None:
        held = ", ".join(sorted(content)[:8]) if isinstance(content, dict) else ""
        raise ValueError(f"is in no known shape (its fields: {held or 'none'})")
    return shape


def _trimmed(value: Any) -> Any:
    """The row with the contents of its messages stripped."""
    if isinstance(value, list):
        return [_trimmed(item) for item in value]
    if isinstance(value, dict):
        if isinstance(value.get("content"), str) and "role" in value:
            return {**value, "content": value["content"].strip()}
        return {name: _trimmed(item) if name != "tools" else item for name, item in value.items()}
    return value


def _remains(row: dict[str, Any]) -> Iterator[str]:
    """A sentence for each message that still holds placeholders."""
    for index, message in enumerate(row.get("messages", ())):
        if found := placeholders(message.get("content") or ""):
            yield f"messages[{index}].content still holds the placeholder {', '.join(found)}; fill it in"
