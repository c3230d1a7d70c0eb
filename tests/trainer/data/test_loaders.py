"""Whatever a line holds, reading gives a row or a problem, never an exception."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import chat, pair
from trainer.data.convert import convert, source_rows
from trainer.data.loaders import Reader, Row, shape_of
from trainer.data.row_checks import check_row
from trainer.data.schema import parse_row, row_id
from trainer.errors import DataError, Problem

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.just("assistant")
)
_NAMES = """messages role content weight tools tool_calls function arguments id tool_call_id name functions prompt
completion input preferred_output non_preferred_output conversations from value chosen rejected instruction output
history system"""
NAMES = st.sampled_from(_NAMES.split())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=20,
)


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, object]:
    """A good row of some shape, of which one part was replaced by something else."""
    turn = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
    good: list[dict[str, object]] = [
        chat(),
        pair(),
        {"prompt": "a", "completion": "b"},
        {"messages": [{"role": "user", "content": "a"}, turn], "tools": [{"function": {"name": "f"}}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{}"}], "tools": "[]"},
        {"instruction": "a", "input": "b", "output": "c", "history": [["a", "b"]]},
        {"prompt": [{"role": "user", "content": "a"}], "chosen": [turn], "rejected": [turn]},
    ]
    row: dict[str, object] = json.loads(json.dumps(draw(st.sampled_from(good))))
    holder: object = row
    for _ in range(draw(st.integers(0, 4))):
        inner = list(holder.values()) if isinstance(holder, dict) else holder
        assert isinstance(inner, list)
        deeper = [value for value in inner if isinstance(value, dict | list) and value]
        if not deeper:
            break
        holder = draw(st.sampled_from(deeper))
    if isinstance(holder, dict) and holder:
        holder[draw(st.sampled_from(sorted(holder)))] = draw(VALUES)
    elif isinstance(holder, list) and holder:
        holder[draw(st.integers(0, len(holder) - 1))] = draw(VALUES)
    return row


@given(st.one_of(spoilt(), st.dictionaries(NAMES, VALUES, max_size=5)))
def test_any_row_is_good_or_has_complaints_and_a_good_one_can_be_read(row: dict[str, object]) -> None:
    if not list(check_row(row)):
        assert parse_row(1, row).row_id == row_id(json.loads(json.dumps(row)))


@given(st.one_of(spoilt(), VALUES))
def test_any_row_is_converted_or_refused_with_a_reason(row: object) -> None:
    shape = shape_of(row) if isinstance(row, dict) else "messages"
    try:
        converted = convert(row, shape or "messages")
    except ValueError:
        return
    assert list(check_row(converted)) == []


LINES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(str.encode),
    spoilt().map(lambda row: json.dumps(row).encode()),
    st.just(json.dumps(chat()).encode()),
    st.sampled_from([b"[", b"{", b"[[[[", b'{"a": 1e999}', b'{"a": ' + b"9" * 5000 + b"}", b"NaN", b"\xef\xbb\xbf{}"]),
)


@given(st.lists(LINES, max_size=6), st.sampled_from([b"\n", b"\r\n", b"\n\n"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_any_noise_in_a_file_gives_rows_and_problems_with_lines(
    tmp_path: Path, lines: list[bytes], separator: bytes
) -> None:
    path = tmp_path / "noise.jsonl"
    path.write_bytes(separator.join(lines))
    found = list(Reader(path).read())
    assert found
    for one in found:
        assert isinstance(one, Row | Problem)
        if isinstance(one, Row):
            with path.open("rb") as file:
                file.seek(one.offset)
                assert json.loads(file.readline().decode("utf-8-sig")) == one.fields
    with contextlib.suppress(DataError):
        assert all(number > 0 for number, _ in source_rows(path))


@pytest.mark.parametrize("text", ["[1, 2", "[1] 2", "[1,, 2]"])
def test_an_array_that_breaks_off_says_after_which_row(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"is not a JSON array past row \d"):
        list(source_rows(path))
