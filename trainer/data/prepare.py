"""Prepare a file for training: convert, trim, redact and deduplicate its rows, with an account of every change.

There are two passes, and neither keeps the rows in memory. The first converts, trims and redacts each row into a
temporary file; the second leaves out duplicates, some of which only redaction makes equal, and writes the result. Each
line of the account names a row that was changed or left out, and the reason.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from trainer.data.comparisons import Comparisons, compare, same_answers
from trainer.data.convert import column_names, convert, source_rows
from trainer.data.loaders import Shape, shape_of
from trainer.data.near_duplicates import DEFAULT_SIMILARITY, NearDuplicateIndex, answer_text, fingerprint
from trainer.data.pii import NAMES
from trainer.data.redaction import Redactor
from trainer.data.row_signs import Ratings, placeholders
from trainer.data.scan import MAX_PROBLEMS, ColumnBuilder, Columns
from trainer.data.schema import Example, parse_row
from trainer.errors import DataError, Problem, RunError
from trainer.files import replacing

_TRAINED_FIELDS = ("messages", "tools", "prompt", "completion")
Action = Literal["dropped", "redacted", "trimmed", "kept"]


@dataclass(frozen=True, slots=True)
class Policy:
    """The treatment of PII, of duplicates (near ones must have the same output), and of answers that are rated bad."""

    personal: Literal["redact", "drop", "keep"] = "redact"
    duplicates: Literal["exact", "near", "keep"] = "exact"
    rated: Literal["drop", "pairs", "keep"] = "drop"
    similarity: float = DEFAULT_SIMILARITY


@dataclass
class PrepareReport:
    """The result: `counts` has the rows of each action, `dropped` and `warnings` the first of them as sentences."""

    source: Path
    out: Path
    path: Path
    read: int = 0
    written: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    warning_count: int = 0
    dropped: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def prepare(
    source: Path,
    out: Path,
    policy: Policy,
    *,
    shape: Shape | None = None,
    columns: Mapping[str, str] | None = None,
    force: bool = False,
) -> PrepareReport:
    """Write the rows of `source` to `out`, and the account to `<out>.account.jsonl`.

    Without `shape` the format of each row is detected; `columns` gives the roles of its fields. Raises
    `DataError` when the file is unreadable, lacks a column or yields no row, `RunError` when `out` exists without
    `force`.
    """
    account = PrepareReport(source, out, out.with_name(f"{out.name}.account.jsonl"))
    for path in (out, account.path):
        if path.exists() and not force:
            raise RunError(f"{path} exists already; choose another --out or pass --force.")
    roles = _roles(source, shape, columns)
    with (
        replacing(out) as rows,
        replacing(account.path) as told,
        tempfile.TemporaryFile("w+", encoding="utf-8") as staged,
    ):
        with NearDuplicateIndex() as index:
            marks, bad = _stage(account, _Taken(shape, roles), policy, staged, index)
            found = compare(marks, *index.clusters(marks.near, policy.similarity))
        fates = _Fates(
            _copies(marks, found, policy),
            _contradicted(marks, found, bad),
            bad if policy.rated != "keep" else {},
            _partners(marks, found, bad) if policy.rated == "pairs" else None,
        )
        _write(account, staged, fates, rows, told)
        if not account.written:
            nothing = Problem(str(source), None, "has no rows; check that it is the right file")
            raise DataError(account.dropped or [nothing])
    return account


@dataclass(frozen=True, slots=True)
class _Taken:
    """The format of the rows, None to detect it; `roles` are those of its fields."""

    shape: Shape | None
    roles: Mapping[str, str] | None


@dataclass(frozen=True)
class _Fates:
    """The results of comparing all rows, by their index among the good rows.

    `bad` rows have an answer that is rated bad. `partners` maps good rows to bad ones with the same input, for pairs.
    """

    copies: Mapping[int, tuple[int, str]]
    contradicted: Mapping[int, int]
    bad: Mapping[int, str]
    partners: Mapping[int, int] | None


def _roles(source: Path, shape: Shape | None, columns: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return the roles of a table's columns; a table with unknown columns is one problem, not one per row."""
    names = column_names(source)
    if columns:
        if missing := [name for name in columns if name not in names]:
            raise DataError([Problem(str(source), None, f"has no {missing[0]}; its columns are {', '.join(names)}")])
        return columns
    example: dict[str, str] = dict.fromkeys(names, "")
    if shape is None and names and shape_of(example) is None:
        told = [name for name in names if name.lower() not in ("id", "index", "key", "date", "unnamed: 0")] or names
        asked, answered = told[0], told[-1]
        said = (
            f"has the columns {', '.join(names[:8])}, of which none is known to ask or to answer; say which do: "
            f"--columns {asked}=user,{answered}=assistant"
        )
        raise DataError([Problem(str(source), None, said)])
    return None


def _stage(
    account: PrepareReport, taken: _Taken, policy: Policy, staged: IO[str], index: NearDuplicateIndex
) -> tuple[Columns, dict[int, str]]:
    """Run the first pass: one line per row, `[number, events, row or null]`; returns the columns and the bad rows."""
    builder, ratings, good = ColumnBuilder(), Ratings(), 0
    for number, content in source_rows(account.source):
        account.read += 1
        events: list[tuple[Action, str]] = []
        row = _cleaned(content, taken, policy, events)
        staged.write(json.dumps([number, events, row], ensure_ascii=True) + "\n")
        if row is not None:
            parsed = parse_row(number, row)
            marks = fingerprint(parsed)
            if isinstance(parsed, Example):
                ratings.add(good, row, answer_text(parsed))
            builder.add(marks, line=number)
            index.add(marks.shingles)
            good += 1
    marks_of, bad = builder.build(), ratings.bad()
    # Good and bad answers count as different files, so that none is a duplicate of the other.
    side = np.zeros(len(marks_of), np.uint64)
    side[list(bad)] = 1
    return replace(marks_of, file=side if policy.rated != "keep" else marks_of.file), bad


def _cleaned(content: object, taken: _Taken, policy: Policy, events: list[tuple[Action, str]]) -> dict[str, Any] | None:
    """Return the row to write, or None when it is left out; the changes are added to `events`."""
    try:
        if isinstance(content, ValueError):
            raise content
        row = convert(content, "columns" if taken.roles else taken.shape or _shape(content), taken.roles)
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


def _write(account: PrepareReport, staged: IO[str], fates: _Fates, rows: IO[str], told: IO[str]) -> None:
    """Run the second pass: write the account and the rows that stay."""
    rejected = _staged_rows(staged, set((fates.partners or {}).values()))
    staged.seek(0)
    good = 0
    for line in staged:
        number, events, row = json.loads(line)
        if row is not None:
            events += _fate(fates, good)
            if fates.partners is not None and good in fates.partners:
                row = _paired(row, rejected[fates.partners[good]])
            good += 1
        kept = row is not None and all(action != "dropped" for action, _ in events)
        account.written += kept
        if kept:
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")
            events += (("kept", text) for text in _remains(row))
        for entry in _entries(account, number, events, row, account.written if kept else None):
            told.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _entries(
    account: PrepareReport,
    number: int,
    events: list[tuple[Action, str]],
    row: dict[str, Any] | None,
    out_line: int | None,
) -> Iterator[dict[str, Any]]:
    account.counts.update({action for action, _ in events})
    for action, reason in events:
        problem = Problem(str(account.source), number, reason)
        if action == "dropped" and len(account.dropped) < MAX_PROBLEMS:
            account.dropped.append(problem)
        if action == "kept":
            account.warning_count += 1
            if len(account.warnings) < MAX_PROBLEMS:
                account.warnings.append(problem)
        identity = None if row is None else parse_row(number, row).row_id
        yield {"row": number, "action": action, "reason": reason, "out_line": out_line, "row_id": identity}


def _fate(fates: _Fates, good: int) -> Iterator[tuple[Action, str]]:
    """Yield what happens to a row because of other rows."""
    if good in fates.copies:
        first, relation = fates.copies[good]
        yield "dropped", f"{relation} row {first}"
    elif good in fates.bad:
        is_used = fates.partners is not None and good in fates.partners.values()
        yield "dropped", f"{fates.bad[good]}{', so it is the worse side of a pair' if is_used else ''}"
    elif fates.partners is not None and good not in fates.partners:
        yield "dropped", "has no bad answer to the same input to be preferred to"
    elif good in fates.contradicted:
        yield "kept", f"has the same input as row {fates.contradicted[good]} but answers differently"


def _staged_rows(staged: IO[str], wanted: set[int]) -> dict[int, dict[str, Any]]:
    """Read some of the good rows again, by index."""
    if not wanted:
        return {}
    staged.seek(0)
    good = (row for _, _, row in map(json.loads, staged) if row is not None)
    return {place: row for place, row in enumerate(good) if place in wanted}


def _partners(columns: Columns, found: Comparisons, bad: Mapping[int, str]) -> dict[int, int]:
    """Match each good row with a bad one with the same input, each bad one once."""
    waiting: dict[int, list[int]] = {}
    copies = set(found.duplicates[:, 0].tolist())
    for row in bad:
        if row not in copies:
            waiting.setdefault(int(columns.asked[row]), []).append(row)
    partners = {}
    for row in range(len(columns)):
        others = waiting.get(int(columns.asked[row]))
        if others and row not in bad and row not in copies:
            partners[row] = others.pop(0)
    return partners


def _paired(better: dict[str, Any], worse: dict[str, Any]) -> dict[str, Any]:
    """Make a preference pair of two conversations with the same input; other fields come from the better one."""
    sides = [_conversation(row) for row in (better, worse)]
    given = {"messages": sides[0][:-1]} | ({"tools": better["tools"]} if better.get("tools") else {})
    kept = {name: value for name, value in better.items() if name not in _TRAINED_FIELDS}
    return kept | {"input": given, "preferred_output": sides[0][-1:], "non_preferred_output": sides[1][-1:]}


def _conversation(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages of a row without weights; answers before the last are context."""
    return [{name: value for name, value in message.items() if name != "weight"} for message in row["messages"]]


def _copies(columns: Columns, found: Comparisons, policy: Policy) -> dict[int, tuple[int, str]]:
    """Return the rows to leave out, each with the row that stays and their relation."""
    if policy.duplicates == "keep":
        return {}
    near = same_answers(columns, found.clusters) if policy.duplicates == "near" else found.duplicates[:0]
    told = {int(row): (int(columns.line[first]), "asks nearly the same and answers the same as") for row, first in near}
    exact = {int(row): (int(columns.line[first]), "has the same messages as") for row, first in found.duplicates}
    return told | exact


def _contradicted(columns: Columns, found: Comparisons, bad: Mapping[int, str]) -> dict[int, int]:
    pairs = np.concatenate((found.contradictions, found.conflicting_preferences))
    return {int(row): int(columns.line[first]) for row, first in pairs if int(first) not in bad}


def _shape(content: object) -> Shape:
    shape = shape_of(content) if isinstance(content, dict | list) else "messages"
    if shape is None:
        held = ", ".join(sorted(content)[:8]) if isinstance(content, dict) else ""
        fix = "say which asks and which answers, as in --columns question=user,answer=assistant"
        raise ValueError(f"is in no known shape (its fields: {held or 'none'}); {fix}")
    return shape


def _trimmed(value: Any) -> Any:
    """Strip the contents of a row's messages."""
    if isinstance(value, list):
        return [_trimmed(item) for item in value]
    if isinstance(value, dict):
        if isinstance(value.get("content"), str) and "role" in value:
            return {**value, "content": value["content"].strip()}
        return {name: _trimmed(item) if name != "tools" else item for name, item in value.items()}
    return value


def _remains(row: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each message with placeholders."""
    for index, message in enumerate(row.get("messages", ())):
        if found := placeholders(message.get("content") or ""):
            yield f"messages[{index}].content still holds the placeholder {', '.join(found)}; fill it in"
