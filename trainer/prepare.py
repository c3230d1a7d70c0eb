"""Converting data in other known shapes into chat `messages` in JSON Lines, with an account of every row.

Nothing is dropped silently: a row that cannot be converted faithfully, because it defines tools or has an empty answer,
is left out and named. Placeholders such as `{{name}}` stay as they are and are named too, since a model would learn to
say them.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError, Problem, RunError
from trainer.files import replacing
from trainer.rows import check_row, foreign_shape

_PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}")
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Account:
    """What a conversion did with each row; `skipped` and `warnings` name file and row."""

    source: Path
    out: Path
    read: int
    written: int
    skipped: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def prepare(source: Path, shape: str, out: Path, *, force: bool = False) -> Account:
    """Convert `source`, whose rows have the given `shape` (a key of `SHAPES`), into the JSONL file `out`.

    Raises `DataError` when the file is unreadable or yields no row, `RunError` when `out` exists without `force`.
    """
    if out.exists() and not force:
        raise RunError(f"{out} exists already; choose another --out or pass --force.")
    convert, read, written = SHAPES[shape], 0, 0
    skipped, warnings = list[Problem](), list[Problem]()
    with replacing(out) as file:
        for number, row in _rows(source):
            read += 1
            try:
                messages = _converted(row, shape, convert)
            except ValueError as reason:
                skipped.append(Problem(str(source), number, str(reason)))
                continue
            warnings += (Problem(str(source), number, text) for text in _placeholders(messages))
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
            written += 1
        if not written:
            raise DataError(skipped or [Problem(str(source), None, "holds no rows; check that it is the right file")])
    return Account(source, out, read, written, tuple(skipped), tuple(warnings))


def _rows(source: Path) -> Iterator[tuple[int, Any]]:
    """Row number from 1 and parsed row, from a JSON array or from JSON Lines (where the number is the line)."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError([Problem(str(source), None, f"cannot be read ({reason}); check the path")]) from error
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), start=1)
        except json.JSONDecodeError as error:
            raise DataError([Problem(str(source), error.lineno, f"is not JSON: {error.msg}")]) from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError([Problem(str(source), number, f"is not JSON: {error.msg}")]) from error


def _converted(row: object, shape: str, convert: Callable[[Mapping[str, Any]], _Messages]) -> _Messages:
    if not isinstance(row, dict):
        raise ValueError("is not a JSON object")
    actual = foreign_shape(row) or ("messages" if "messages" in row else None)
    if actual != shape:
        raise ValueError(f"is in {actual or 'no known'} shape, not {shape}")
    try:
        messages = convert(row)
    except TypeError as error:
        raise ValueError(f"has {shape} fields of an unexpected type ({error})") from error
    if complaints := list(check_row({"messages": messages})):
        raise ValueError("; ".join(complaints))
    return messages


def _from_alpaca(row: Mapping[str, Any]) -> _Messages:
    system, history = row.get("system"), row.get("history") or []
    messages = [{"role": "system", "content": system}] if system else []
    for asked, answered in history:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    asked = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return [*messages, {"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]


def _from_sharegpt(row: Mapping[str, Any]) -> _Messages:
    if row.get("tools") not in (None, "", "[]", []):
        raise ValueError("defines tools, which training would not see")
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for index, turn in enumerate(row["conversations"]):
        sender = turn.get("from") if isinstance(turn, dict) else None
        if sender not in _SHAREGPT_ROLES:
            raise ValueError(f"conversations[{index}].from is {sender!r}; only human, gpt and system turns convert")
        messages.append({"role": _SHAREGPT_ROLES[sender], "content": turn.get("value")})
    return messages


def _from_messages(row: Mapping[str, Any]) -> _Messages:
    return list(row["messages"])


SHAPES: Mapping[str, Callable[[Mapping[str, Any]], _Messages]] = {
    "alpaca": _from_alpaca,
    "sharegpt": _from_sharegpt,
    "messages": _from_messages,
}


def _placeholders(messages: _Messages) -> Iterator[str]:
    for index, message in enumerate(messages):
        if found := sorted(set(_PLACEHOLDER.findall(message["content"]))):
            yield f"messages[{index}].content still holds the placeholder {', '.join(found)}; fill it in"
