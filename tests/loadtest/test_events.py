"""Events read as bytes: whatever the cuts and whatever the shortcuts, the record is the one that JSON gives."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.http1 import FailureError
from loadtest.records import RequestRecord
from loadtest.sse import EventReader, text_chunks


def event(delta: dict[str, object], **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **more}
    return b"data: " + orjson.dumps({"id": "x", "choices": [choice]}) + b"\n\n"


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":40}}\n\n'
LONG = b"".join(
    [
        event({"role": "assistant", "content": ""}),
        *[event({"content": f"word {number} "}) for number in range(60)],
        event({"content": "end"}, finish_reason="stop"),
        USAGE,
        b"data: [DONE]\n\n",
    ]
)


def read(*pieces: bytes) -> RequestRecord:
    record = RequestRecord(0, "base", 0.0, 0.0)
    events = EventReader(record)
    for number, piece in enumerate(pieces):
        events.feed(piece, float(number))
    assert events.done == (b"[DONE]" in b"".join(pieces))
    return record


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, len(LONG)), max_size=6))
def test_an_answer_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(LONG)]
    record = read(*(LONG[start:end] for start, end in pairwise(edges)))
    assert (len(record.chunk_s), record.empty_chunks) == (61, 0)
    assert (record.prompt_tokens, record.completion_tokens, record.finish_reason) == (3, 40, "stop")
    assert record.chunk_s == sorted(record.chunk_s)


def test_a_long_read_gives_all_its_chunks_its_time() -> None:
    assert set(read(LONG).chunk_s) == {0.0}


@pytest.mark.parametrize(
    ("odd", "chunks", "empty"),
    [
        (event({"content": ""}), 60, 1),
        (event({"reasoning": "hm"}), 61, 0),
        (event({"tool_calls": [{"index": 0}]}), 61, 0),
        (event({}), 60, 0),
        (b": a comment\n\n", 60, 0),
        (event({"content": '"delta":{"content":"'}), 61, 0),
        (event({"content": '\n\ndata: {"finish_reason":null'}), 61, 0),
        (event({"content": "x"}).replace(b"\n\n", b"\r\n\r\n"), 61, 0),
        (event({"content": "x"}).replace(b'":', b'": '), 61, 0),
        (event({"content": "x"}) * 2, 62, 0),
        (event({"content": "x", "role": "assistant"}), 61, 0),
    ],
)
def test_what_differs_in_the_middle_of_a_long_read_is_seen(odd: bytes, chunks: int, empty: int) -> None:
    half = [event({"content": "plain "})] * 30
    record = read(b"".join([*half, odd, *half, b"data: [DONE]\n\n"]))
    assert (len(record.chunk_s), record.empty_chunks) == (chunks, empty)


def test_the_shortcut_is_taken_for_plain_chunks_only() -> None:
    plain = event({"content": "w"}) * 5
    assert text_chunks(plain) == 5
    for other in (b"", plain + USAGE, plain + event({"content": ""}), plain[:-1], plain + event({}), plain + b": \n\n"):
        assert text_chunks(other) == 0


@pytest.mark.parametrize(
    ("middle", "kind"),
    [(b'data: {"error":{"message":"gone"}}\n\n', "stream_error"), (b"data: {nonsense\n\n", "malformed")],
)
def test_a_failure_in_the_middle_of_a_long_read_is_not_counted_over(middle: bytes, kind: str) -> None:
    half = event({"content": "plain "}) * 30
    with pytest.raises(FailureError) as caught:
        read(half + middle + half)
    assert caught.value.kind == kind


def test_a_line_without_end_is_malformed() -> None:
    with pytest.raises(FailureError, match="does not end"):
        read(b"data: " + b"x" * (17 << 20))


def test_a_record_on_disk_is_the_record() -> None:
    record = read(LONG[: len(LONG) // 2], LONG[len(LONG) // 2 :])
    assert RequestRecord.from_line(record.as_line()) == record
