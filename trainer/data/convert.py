"""Convert rows of other formats into rows of `messages` or preference pairs, and stream the rows of source files.

A row that cannot be converted without loss is a `ValueError` with the reason. Tool calls of ShareGPT become OpenAI's
`tool_calls`. Sources are JSON Lines, a JSON array, CSV, TSV or Parquet of any size, also with gzip, UTF-16 or
Windows-1252.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from trainer.data.loaders import MAX_ROW_BYTES, Format, Shape, advice, delimiter_of, parse_line, shape_of, text_of
from trainer.data.messages import plain_text, turns_of, usual_call, usual_message, usual_messages, without_nulls
from trainer.data.row_checks import MASKING, check_row, usual_columns
from trainer.errors import DataError, Problem

Fields = Mapping[str, Any]
_SHAREGPT_ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
COLUMN_ROLES = ("system", "user", "assistant")
_SIDES = ("user", "assistant")
# Values of Alpaca's input that mean none.
_NO_INPUT = {"<noinput>", "noinput", "no input", "n/a", "na", "none", "null", "nil", "-"}
_CONVERTED = ("conversations", "instruction", "input", "output", "history", "system", "chosen", "rejected", "prompt")


def convert(row: object, shape: Shape, columns: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Convert a row of the given shape into a checked row; raises `ValueError` when that would lose something.

    `columns` names the roles of a row's fields; without it they follow from usual names such as question and answer.
    """
    if not isinstance(row, dict | list):
        raise ValueError("is not a JSON object")
    actual = "columns" if columns else shape_of(row)
    if actual != shape:
        raise ValueError(f"is in {actual or 'no known'} shape, not {shape}")
    try:
        converted = (
            _from_columns(row, columns) if isinstance(row, dict) and shape == "columns" else _CONVERTERS[shape](row)
        )
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"has {shape} fields of an unexpected type ({error})") from error
    if complaints := list(check_row(converted)):
        raise ValueError("; ".join(complaints))
    return converted


def _from_columns(row: Fields, columns: Mapping[str, str] | None) -> dict[str, Any]:
    """Convert a row whose fields have roles; all other fields are kept."""
    roles = columns or usual_columns(row) or {}
    if missing := [name for name, role in roles.items() if name not in row and role != "system"]:
        raise ValueError(f"has no {missing[0]}, only {', '.join(map(str, row))}")
    messages = []
    for role in COLUMN_ROLES:
        for name in (name for name, wanted in roles.items() if wanted == role):
            value = row.get(name)
            if isinstance(value, bool) or (role == "assistant" and isinstance(value, int | float)):
                raise ValueError(
                    f"has {name} {value}, which is not text; write the words that the model should answer with"
                )
            if value not in (None, ""):
                messages.append(_turn(role, plain_text(value)))
    return {name: value for name, value in row.items() if name not in roles} | {"messages": messages}


def _from_list(row: Any) -> dict[str, Any]:
    """Convert a row that is a list: of messages, of ShareGPT turns, or of pairs of role and text or of texts."""
    if row and all(isinstance(turn, dict) and "from" in turn for turn in row):
        return {"messages": _sharegpt_turns("row", row)}
    if row and all(isinstance(turn, list) and len(turn) == 2 for turn in row):
        if all(turn[0] in _SHAREGPT_ROLES for turn in row):
            return {"messages": [_turn(_SHAREGPT_ROLES[role], said) for role, said in row]}
        return {"messages": [_turn(role, said) for turn in row for role, said in zip(_SIDES, turn, strict=True)]}
    return {"messages": usual_messages(row)}


def _from_alpaca(row: Fields) -> dict[str, Any]:
    system, history = row.get("system"), row.get("history") or []
    messages = [_turn("system", system)] if system else []
    for asked, answered in history:
        messages += [_turn("user", asked), _turn("assistant", answered)]
    given = row.get("input")
    given = None if isinstance(given, str) and given.strip().strip(".").lower() in _NO_INPUT else given
    asked = "\n\n".join(part for part in (row["instruction"], given) if part)
    messages += [_turn("user", asked), _turn("assistant", row["output"])]
    return _others(row) | {"messages": messages}


def _from_sharegpt(row: Fields) -> dict[str, Any]:
    tools = _tools(row.get("tools"))
    messages = [_turn("system", row["system"])] if row.get("system") else []
    messages += _sharegpt_turns("conversations", row["conversations"])
    return _others(row) | {"messages": messages} | ({"tools": tools} if tools else {})


def _from_preference(row: Fields) -> dict[str, Any]:
    """Pairs with `chosen` and `rejected`: answers to `prompt` or `conversations`, or two whole conversations."""
    tools = _tools(row.get("tools"))
    chosen, rejected = (_side(name, row[name]) for name in ("chosen", "rejected"))
    if "conversations" in row:
        asked = _sharegpt_turns("conversations", row["conversations"])
    elif "instruction" in row:
        asked = _from_alpaca({**row, "output": ""})["messages"][:-1]
    elif "prompt" in row and chosen[0].get("role") == "assistant":
        asked = _side("prompt", row["prompt"], role="user")
    else:
        chosen, rejected = _transcript("chosen", row, chosen), _transcript("rejected", row, rejected)
        asked = _common(chosen, rejected)
        chosen, rejected = chosen[len(asked) :], rejected[len(asked) :]
    if row.get("system") and "instruction" not in row:
        asked = [_turn("system", row["system"]), *asked]
    given = {"messages": asked} | ({"tools": tools} if tools else {})
    return _others(row) | {"input": given, "preferred_output": chosen, "non_preferred_output": rejected}


def _from_messages(row: Fields) -> dict[str, Any]:
    """Normalize rows of our own kinds: other spellings of messages and tools become OpenAI's."""
    converted = {name: value for name, value in row.items() if name not in ("functions", "tools")}
    if tools := _tools(row.get("tools") or row.get("functions")):
        converted["tools"] = tools
    if row.get("function_call"):
        converted.pop("function_call", None)
    for name in ("messages", "prompt", "completion", "preferred_output", "non_preferred_output"):
        if isinstance(row.get(name), list):
            converted[name] = usual_messages(row[name], tools)
        elif isinstance(row.get(name), str):
            converted[name] = plain_text(row[name])
    if "preferred_output" in row and isinstance(row.get("input"), dict):
        converted["input"] = _from_messages(row["input"])
    return converted


def _from_completion(row: Fields) -> dict[str, Any]:
    prompt, completion = row["prompt"], row["completion"]
    asked = [_turn("user", plain_text(prompt))] if isinstance(prompt, str) else [_context(one) for one in prompt]
    answer = [_turn("assistant", plain_text(completion))] if isinstance(completion, str) else usual_messages(completion)
    kept = {name: value for name, value in row.items() if name not in ("prompt", "completion")}
    return kept | {"messages": [*asked, *answer]}


_CONVERTERS: Mapping[Shape, Callable[[Any], dict[str, Any]]] = {
    "alpaca": _from_alpaca,
    "sharegpt": _from_sharegpt,
    "preference": _from_preference,
    "messages": _from_messages,
    "prompt-completion": _from_completion,
    "list": _from_list,
}


def _sharegpt_turns(where: str, turns: Sequence[Any]) -> list[dict[str, Any]]:
    if turns and all(isinstance(turn, list) for turn in turns):
        return list(_from_list(turns)["messages"])
    if turns and all(isinstance(turn, dict) and "role" in turn for turn in turns):
        return list(usual_messages(list(turns)))
    messages: list[dict[str, Any]] = []
    pending: list[str] = []
    for index, turn in enumerate(turns):
        sender, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if sender == "function_call":
            calls = _calls(f"{where}[{index}]", value, len(messages))
            pending += [call["id"] for call in calls]
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        elif sender == "observation":
            answered = {"tool_call_id": pending.pop(0)} if pending else {}
            messages.append({**_turn("tool", value), **answered})
        elif sender in _SHAREGPT_ROLES:
            messages.append(usual_message(_turn(_SHAREGPT_ROLES[sender], value) | _marks(turn)))
        else:
            raise ValueError(
                f"{where}[{index}].from is {sender!r}; human, gpt, system, function_call and observation turns convert"
            )
    return messages


def _calls(where: str, value: object, number: int) -> list[dict[str, Any]]:
    """The calls of one ShareGPT turn: a JSON object with name and arguments, or a list of them."""
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        functions = parsed if isinstance(parsed, list) else [parsed]
        return [
            {
                "id": f"call_{number}_{index}",
                "type": "function",
                "function": {"name": function["name"], "arguments": usual_call(function)["function"]["arguments"]},
            }
            for index, function in enumerate(functions)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f'{where} is not a tool call; write {{"name": ..., "arguments": {{...}}}}') from error


def _marks(turn: Fields) -> dict[str, Any]:
    """Return the fields of a turn beside its text: its weight or mask, and its reasoning."""
    return {name: turn[name] for name in ("weight", *MASKING, "reasoning_content", "thinking") if name in turn}


def _transcript(name: str, row: Fields, side: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Split a side that is one text without a prompt into turns, when it is a transcript in Anthropic's form."""
    if not isinstance(row[name], str):
        return side
    if turns := turns_of(row[name]):
        return turns
    raise ValueError(
        f"has {name} as a text but no prompt; add prompt, or begin turns with Human: and Assistant: behind empty lines"
    )


def _tools(tools: object) -> list[dict[str, Any]]:
    """Return tool definitions in OpenAI's form, from a list or its JSON; bare functions are wrapped."""
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise ValueError("has tools that are not JSON; write a list of tools") from error
    if not tools:
        return []
    if not isinstance(tools, list):
        raise ValueError("has tools that are not a list; write a list of tools")
    bare = (isinstance(tool, dict) and "name" in tool and "function" not in tool for tool in tools)
    return [
        {"type": "function", "function": without_nulls(tool)} if is_bare else without_nulls(tool)
        for tool, is_bare in zip(tools, bare, strict=True)
    ]


def _side(name: str, value: Any, role: str = "assistant") -> list[dict[str, Any]]:
    """Return messages from a text, from one ShareGPT turn or message, or from a list of them."""
    if isinstance(value, str):
        return [_turn(role, value)]
    turns = value if isinstance(value, list) else [value]
    if turns and all(isinstance(turn, dict) and "from" in turn for turn in turns):
        return _sharegpt_turns(name, turns)
    return list(usual_messages(list(turns)))


def _common(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the common first messages of two conversations, except their last ones."""
    shared = 0
    while shared < min(len(one), len(other)) - 1 and one[shared] == other[shared]:
        shared += 1
    return one[:shared]


def _context(message: Any) -> Any:
    """Normalize a message of a prompt: assistant messages in it get weight 0."""
    message = usual_message(message)
    return {**message, "weight": 0} if isinstance(message, dict) and message.get("role") == "assistant" else message


def _turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _others(row: Fields) -> dict[str, Any]:
    """Return the fields that the conversion does not use, such as an id or a group."""
    return {name: value for name, value in row.items() if name not in (*_CONVERTED, "tools")}


def source_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Yield number and content of each row; the number is the line, or the position from 1 in an array or table.

    A line that is not a JSON object or list is yielded as a `ValueError`. Raises `DataError` when the file cannot be
    read to its end.
    """
    try:
        with text_of(path) as (file, found, name):
            yield from _rows(path, file, found, name)
    except OSError as error:
        said = f"cannot be read ({error.strerror or error}); check the path"
        raise DataError([Problem(str(path), None, said)]) from error
    except (EOFError, UnicodeDecodeError) as error:
        raise DataError([Problem(str(path), None, f"is truncated or damaged ({error}); download it again")]) from error


def _rows(path: Path, file: IO[bytes], found: Format, name: Path) -> Iterator[tuple[int, object]]:
    match found:
        case "lines":
            yield from _lines(file)
        case "array":
            yield from _lines(file) if _is_list_per_line(file) else _array(path, file)
        case "csv":
            yield from _table(path, file, name)
        case "parquet":
            yield from _parquet(path, file)
        case _:
            raise DataError([Problem(str(path), None, str(advice(found, name)))])


def _lines(file: IO[bytes]) -> Iterator[tuple[int, object]]:
    number = 0
    while raw := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(raw) > MAX_ROW_BYTES:
            while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, ValueError(f"is longer than {MAX_ROW_BYTES >> 20} MiB")
        elif text := raw.strip():
            yield number, _line(text)


def _line(text: bytes) -> object:
    try:
        value = parse_line(_utf8(text))
    except ValueError as error:
        return error
    return (
        value if isinstance(value, dict | list) else ValueError('is JSON but not an object; write {"messages": [...]}')
    )


def _utf8(text: bytes) -> bytes:
    """Return a line as UTF-8; another encoding is taken for Windows-1252, which includes Latin-1."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("cp1252", "replace").encode()
    return text


def _is_list_per_line(file: IO[bytes]) -> bool:
    """Whether each of the first lines is a complete array, so that rows are lists of turns."""
    begin = file.tell()
    lines = [line for line in (file.readline(MAX_ROW_BYTES).strip() for _ in range(2)) if line]
    file.seek(begin)
    return len(lines) == 2 and all(isinstance(_line(line), list) for line in lines)


def _array(path: Path, file: IO[bytes]) -> Iterator[tuple[int, object]]:
    import ijson

    number = 0
    try:
        for number, row in enumerate(ijson.items(_Recoded(file), "item", use_float=True), start=1):
            yield number, row
    except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise DataError([Problem(str(path), None, f"is not a JSON array past row {number} ({reason})")]) from error


class _Recoded:
    """File-like object that returns lines as UTF-8."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Return one line, or a part of one that is longer than `size`; nothing at the end."""
        return _utf8(self._file.readline(size)) if size else b""


def _table(path: Path, file: IO[bytes], name: Path) -> Iterator[tuple[int, object]]:
    """Yield the rows of a table by the column names in its first line; JSON in cells is parsed."""
    begin = file.tell()
    delimiter = delimiter_of(name, _utf8(file.readline(MAX_ROW_BYTES)).decode())
    file.seek(begin)
    csv.field_size_limit(MAX_ROW_BYTES)
    rows = csv.reader(
        (_utf8(line).decode() for line in iter(lambda: file.readline(MAX_ROW_BYTES), b"")), delimiter=delimiter
    )
    header = [cell.strip() for cell in next(rows, [])]
    if len(set(header)) != len(header) or "" in header:
        said = f"has the columns {', '.join(header)}: each needs a name of its own in the first line"
        raise DataError([Problem(str(path), 1, said)])
    number = 0
    try:
        for number, cells in enumerate((cells for cells in rows if cells), start=1):
            if len(cells) > len(header):
                yield (
                    number,
                    ValueError(
                        f"has {len(cells)} cells for {len(header)} columns; quote cells that hold {delimiter!r}"
                    ),
                )
            else:
                filled = zip(header, cells, strict=False)
                yield number, {column: _cell(cell) for column, cell in filled if cell.strip()}
    except csv.Error as error:
        raise DataError([Problem(str(path), None, f"is not a table past row {number} ({error})")]) from error


def _cell(cell: str) -> Any:
    if cell.lstrip()[:2] in ("[{", '{"', "[["):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _parquet(path: Path, file: IO[bytes]) -> Iterator[tuple[int, object]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        batches = parquet.ParquetFile(file).iter_batches(batch_size=256)
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
            yield number, {name: _plain(value) for name, value in row.items() if value is not None}
    except pyarrow.ArrowException as error:
        raise DataError(
            [Problem(str(path), None, f"is not a complete Parquet file past row {number} ({error})")]
        ) from error


def _plain(value: Any) -> Any:
    """Return a table's value as a JSON value; other types become text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | bool | int | float | None) else str(value)


def column_names(path: Path, most: int = 20) -> list[str]:
    """Return the fields of a file's first rows, in order."""
    first = (row for _, row in islice(source_rows(path), most) if isinstance(row, dict))
    return list(dict.fromkeys(name for row in first for name in row))
