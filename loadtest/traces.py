"""Recorded traffic as a workload: when requests came and how long they were, in four formats.

- `turntable` (ours): CSV with the header `at_s,prompt_tokens,output_tokens,adapter,session`; the last two columns may
  be missing or empty. Times are seconds from the start.
- `azure`: the CSV of Azure's public LLM inference traces (`TIMESTAMP,ContextTokens,GeneratedTokens`).
- `burstgpt`: the CSV of BurstGPT (`Timestamp,…,Request tokens,Response tokens,…`, seconds); failed requests, which have
  no response tokens, are left out.
- `mooncake`: JSONL with `timestamp` (ms), `input_length`, `output_length` and `hash_ids`, the 512-token blocks of the
  prompt: equal ids become equal text, so that prefixes are shared as they were.

Only ours names adapters: in the others the adapter is drawn by --popularity, and the report says so.
"""

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import orjson

from loadtest.errors import InvalidWorkloadError

FORMATS = ("auto", "turntable", "azure", "burstgpt", "mooncake")
MOST_TOKENS = 10_000_000

COLUMNS = {
    "turntable": ("at_s", "prompt_tokens", "output_tokens"),
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": ("Timestamp", "Request tokens", "Response tokens"),
}


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One recorded request; `at_s` counts from the first one."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    adapter: str | None = None
    session: str | None = None
    blocks: tuple[int, ...] = ()


def read_trace(path: Path, form: str = "auto", limit: int | None = None) -> list[TraceRow]:
    """Read a trace in order of time, at most `limit` requests; raises InvalidWorkloadError with file and line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_limited(_rows(path, file, form), limit))
    except OSError as error:
        raise InvalidWorkloadError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError:
        raise InvalidWorkloadError(f"{path}: is not a text file.") from None
    if not rows:
        raise InvalidWorkloadError(f"{path}: has no requests.")
    rows.sort(key=lambda row: row.at_s)
    return [replace(row, at_s=row.at_s - rows[0].at_s) for row in rows]


def write_trace(file: IO[str], rows: Iterator[TraceRow]) -> None:
    """Write requests in our trace format."""
    writer = csv.writer(file)
    writer.writerow(["at_s", "prompt_tokens", "output_tokens", "adapter", "session"])
    for row in rows:
        writer.writerow([f"{row.at_s:.6f}", row.prompt_tokens, row.output_tokens, row.adapter or "", row.session or ""])


def _limited(rows: Iterator[TraceRow], limit: int | None) -> Iterator[TraceRow]:
    for count, row in enumerate(rows):
        if limit is not None and count >= limit:
            return
        yield row


def _rows(path: Path, file: IO[str], form: str) -> Iterator[TraceRow]:
    first = file.readline()
    file.seek(0)
    known = _recognised(first) if form == "auto" else form
    if known is None:
        known_formats = ", ".join(FORMATS[1:])
        raise InvalidWorkloadError(
            f"{path}:1: is none of the trace formats {known_formats}; name one by --trace-format."
        )
    if known == "mooncake":
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _read(_mooncake, line, f"{path}:{number}")
        return
    reader = csv.DictReader(file)
    missing = [name for name in COLUMNS[known] if name not in (reader.fieldnames or ())]
    if missing:
        raise InvalidWorkloadError(f"{path}:1: the {known} format needs the column {missing[0]!r}.")
    for fields in reader:
        row = _read(READERS[known], fields, f"{path}:{reader.line_num}")
        if known != "burstgpt" or row.output_tokens:
            yield row


def _recognised(first: str) -> str | None:
    if first.lstrip().startswith("{"):
        return "mooncake"
    header = set(first.strip().split(","))
    return next((name for name, columns in COLUMNS.items() if header.issuperset(columns)), None)


def _read(parse: Callable[[Any], TraceRow], source: object, where: str) -> TraceRow:
    try:
        row = parse(source)
    except KeyError as error:
        raise InvalidWorkloadError(f"{where}: has no {error.args[0]!r}.") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidWorkloadError(f"{where}: {error}.") from None
    if not math.isfinite(row.at_s):
        raise InvalidWorkloadError(f"{where}: the time is not a number.")
    return row


def _turntable(fields: dict[str, Any]) -> TraceRow:
    return TraceRow(
        float(fields["at_s"]),
        _tokens(fields, "prompt_tokens"),
        _tokens(fields, "output_tokens"),
        fields.get("adapter") or None,
        fields.get("session") or None,
    )


def _azure(fields: dict[str, Any]) -> TraceRow:
    # Seven decimals and, in later years, an offset: more than datetime reads. All of a trace is in one time zone.
    moment, _, fraction = str(fields["TIMESTAMP"]).partition(".")
    digits = fraction.split("+")[0].strip()
    at_s = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp() + (float(f"0.{digits}") if digits else 0.0)
    return TraceRow(at_s, _tokens(fields, "ContextTokens"), _tokens(fields, "GeneratedTokens"))


def _burstgpt(fields: dict[str, Any]) -> TraceRow:
    tokens = _tokens(fields, "Request tokens"), _tokens(fields, "Response tokens", least=0)
    return TraceRow(float(fields["Timestamp"]), *tokens, session=fields.get("Session ID") or None)


def _mooncake(line: str) -> TraceRow:
    row = orjson.loads(line)
    if not isinstance(row, dict):
        raise TypeError("is not a JSON object")
    blocks = tuple(int(block) for block in row.get("hash_ids") or ())
    return TraceRow(row["timestamp"] / 1000, _tokens(row, "input_length"), _tokens(row, "output_length"), blocks=blocks)


def _tokens(fields: dict[str, Any], name: str, least: int = 1) -> int:
    try:
        value = float(fields[name])
    except (TypeError, ValueError):
        value = -1.0
    if not value.is_integer() or not least <= value <= MOST_TOKENS:
        raise ValueError(f"{name!r} must be a whole number of at least {least}, not {fields[name]!r}")
    return int(value)


READERS: dict[str, Callable[[dict[str, Any]], TraceRow]] = {
    "turntable": _turntable,
    "azure": _azure,
    "burstgpt": _burstgpt,
}
