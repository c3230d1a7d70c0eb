"""The stream rewriter: the same bytes out for any chunking, and only the stated rewriting."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import Usage, UsageSource
from gateway.inference.formats import Names
from gateway.inference.formats.completions_stream import DONE, CompletionsStream
from gateway.inference.formats.sse import MOST_EVENT_BYTES

ENGINE, CLIENT, PRINT = "tone@0123456789ab", "tone", "turntable+tone@0123456789ab"
TRICKY = [
    '"model":"tone@0123456789ab"',
    ',"usage":{"prompt_tokens":9}',
    '"choices":[]',
    "\n\ndata: [DONE]\n\n",
    '"finish_reason":"stop"',
    "ü€😀",
    "}{",
]


def rewriter(*, include_usage: bool = False, continuous_usage: bool = False) -> CompletionsStream:
    return CompletionsStream(Names(ENGINE, CLIENT), include_usage=include_usage, continuous_usage=continuous_usage)


def event(document: object) -> bytes:
    data: bytes = orjson.dumps(document)
    return b"data: " + data + b"\n\n"


def usage_of(done: int) -> dict[str, object]:
    return {"prompt_tokens": 5, "total_tokens": 5 + done, "completion_tokens": done, "prompt_tokens_details": None}


def engine_stream(texts: list[str]) -> bytes:
    reasons = [None] * (len(texts) - 1) + ["stop"]
    chunks = [
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": ENGINE,
            "choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": reason}],
            "usage": usage_of(count),
        }
        for count, (text, reason) in enumerate(zip(texts, reasons, strict=True), 1)
    ]
    last = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": ENGINE,
        "choices": [],
        "usage": usage_of(len(texts)) | {"prompt_tokens_details": {"cached_tokens": 3}},
        "system_fingerprint": "vllm-0.32.0-858b47d9",
    }
    return b"".join(map(event, [*chunks, last])) + DONE


def documents(stream: bytes) -> list[dict[str, object]]:
    events = stream.removesuffix(DONE).split(b"\n\n")[:-1]
    return [orjson.loads(event.removeprefix(b"data: ")) for event in events]


texts_strategy = st.lists(st.one_of(st.text(), st.sampled_from(TRICKY)), min_size=1, max_size=6)


@given(texts_strategy, st.lists(st.integers(min_value=1, max_value=200), max_size=60), st.booleans(), st.booleans())
def test_any_chunking_gives_the_same_bytes(
    texts: list[str], sizes: list[int], include_usage: bool, continuous_usage: bool
) -> None:
    stream = engine_stream(texts)
    whole = rewriter(include_usage=include_usage, continuous_usage=continuous_usage)
    expected = whole.feed(stream)
    pieces = rewriter(include_usage=include_usage, continuous_usage=continuous_usage)
    got, rest = b"", stream
    for size in sizes:
        got += pieces.feed(rest[:size])
        rest = rest[size:]
    got += pieces.feed(rest)
    assert got == expected
    assert pieces.count() == whole.count()


@given(texts_strategy)
def test_only_the_name_and_the_usage_change(texts: list[str]) -> None:
    came, left = documents(engine_stream(texts)), documents(rewriter(include_usage=True).feed(engine_stream(texts)))
    for before, after in zip(came[:-1], left[:-1], strict=True):
        expected = before | {"model": CLIENT, "system_fingerprint": PRINT}
        del expected["usage"]
        assert after == expected
    assert left[-1] == came[-1] | {"model": CLIENT, "system_fingerprint": PRINT}


def test_clients_that_did_not_ask_for_usage_get_none() -> None:
    left = documents(rewriter().feed(engine_stream(["a", "b"])))
    assert len(left) == 2
    assert not any("usage" in document for document in left)


def test_clients_that_asked_for_running_usage_get_it_on_every_chunk() -> None:
    left = documents(rewriter(include_usage=True, continuous_usage=True).feed(engine_stream(["a", "b"])))
    assert [document["usage"]["completion_tokens"] for document in left] == [1, 2, 2]  # type: ignore[index]


def test_usage_is_known_after_every_chunk() -> None:
    stream = rewriter()
    assert stream.count() == (Usage(), UsageSource.NONE)
    first, rest = engine_stream(["a", "b", "c"]).split(b"\n\n", 1)
    stream.feed(first + b"\n\n")
    assert stream.count() == (Usage(prompt_tokens=5, completion_tokens=1), UsageSource.LAST_CONTINUOUS)
    assert not stream.saw_end
    stream.feed(rest)
    assert stream.count() == (Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=3), UsageSource.EXACT)
    assert stream.saw_end


def choice(index: int, prompt_tokens: int, completion_tokens: int) -> bytes:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return event({"model": ENGINE, "choices": [{"index": index, "text": "x"}], "usage": usage})


def test_a_broken_off_stream_of_many_choices_counts_each_choice_and_each_prompt_once() -> None:
    stream = CompletionsStream(
        Names(ENGINE, CLIENT), include_usage=False, continuous_usage=False, per_prompt=2, choices=4
    )
    for index, prompt_tokens, done in ((0, 7, 1), (1, 7, 1), (2, 9, 1), (0, 7, 2), (0, 7, 3)):
        stream.feed(choice(index, prompt_tokens, done))
    assert stream.count() == (Usage(prompt_tokens=7 + 9, completion_tokens=3 + 1 + 1), UsageSource.LAST_CONTINUOUS)


def test_the_engines_own_fingerprint_never_stands_beside_ours() -> None:
    fields = {"model": ENGINE, "choices": [{"index": 0, "delta": {}}], "system_fingerprint": "vllm-0.32.0-858b47d9"}
    left = rewriter().feed(event(fields))
    assert left.count(b"system_fingerprint") == 1
    assert documents(left)[0]["system_fingerprint"] == PRINT


def test_an_error_event_of_the_engine_is_not_passed_on() -> None:
    stream = rewriter()
    error = {
        "error": {"message": "CUDA error in /srv/models/x", "type": "InternalServerError", "param": None, "code": 500}
    }
    assert stream.feed(event(error)) == b""
    assert stream.failure is not None
    assert stream.feed(DONE) == b""
    assert not stream.saw_end


def test_usage_in_a_final_chunk_that_has_choices_is_counted_and_not_lost() -> None:
    """Some servers put the usage beside the last choice; a gateway that waits for empty choices bills nothing."""
    stream = rewriter()
    usage = usage_of(40) | {"prompt_tokens_details": {"cached_tokens": 3}}
    choice = {"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": "stop"}
    stream.feed(
        event({"id": "x", "object": "chat.completion.chunk", "model": ENGINE, "choices": [choice], "usage": usage})
    )
    stream.feed(DONE)
    counted, _ = stream.count()
    assert counted == Usage(5, 40, 3)


@given(texts_strategy, st.sampled_from([b"\n", b"\r", b"\r\n"]), st.lists(st.integers(1, 50), max_size=40))
def test_lines_may_end_as_they_like_and_be_cut_anywhere(texts: list[str], end: bytes, sizes: list[int]) -> None:
    stream = engine_stream(texts)
    expected, pieces = rewriter().feed(stream), rewriter()
    rest, got = stream.replace(b"\n", end), b""
    for size in sizes:
        got, rest = got + pieces.feed(rest[:size]), rest[size:]
    got += b"".join(pieces.feed(rest[place : place + 1]) for place in range(len(rest)))
    assert got == expected
    assert pieces.saw_end


def test_nothing_that_follows_the_end_is_handed_on() -> None:
    stream = rewriter()
    assert b": before\n\n" in stream.feed(b": before\n\n" + engine_stream(["a"]))
    assert stream.feed(b": after\n\n") == stream.feed(engine_stream(["b"])) == b""
    assert stream.count() == (Usage(5, 1, 3), UsageSource.EXACT)


def finished(index: int, reason: str | None) -> bytes:
    choice = {"index": index, "text": "x", "logprobs": None, "finish_reason": reason, "stop_reason": None}
    return event({"model": ENGINE, "choices": [choice], "usage": usage_of(1)})


def test_a_stream_is_whole_once_each_of_its_choices_has_said_why_it_finished() -> None:
    for choices, events in (
        (1, [finished(0, None)]),
        (1, []),
        (3, [finished(0, "stop"), finished(2, "length"), finished(1, None)]),
    ):
        stream = CompletionsStream(
            Names(ENGINE, CLIENT), include_usage=False, continuous_usage=False, per_prompt=choices, choices=choices
        )
        assert DONE not in stream.feed(b"".join([*events, DONE]))
        assert stream.failure is not None
        assert not stream.saw_end
    assert stream.count()[0].completion_tokens == 3
    whole = CompletionsStream(Names(ENGINE, CLIENT), include_usage=True, continuous_usage=True, per_prompt=3, choices=3)
    assert whole.feed(b"".join([*(finished(index, "stop") for index in (2, 0, 1)), DONE])).endswith(DONE)
    assert whole.saw_end


def test_a_choice_that_stops_at_once_is_whole_without_a_token() -> None:
    choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    stream = rewriter()
    stream.feed(event({"model": ENGINE, "choices": [choice], "usage": usage_of(0)}) + DONE)
    assert stream.saw_end
    assert stream.count() == (Usage(5), UsageSource.LAST_CONTINUOUS)


def test_an_event_that_cannot_be_read_ends_the_stream_as_a_failure() -> None:
    head = b'data: {"model":"' + ENGINE.encode() + b'","choices":['
    for broken in (b'{"index":0}],"usage":{"prompt_tokens":5\n\n', b'{"index":x,"finish_reason":"stop"}],"a":{}}\n\n'):
        stream = CompletionsStream(
            Names(ENGINE, CLIENT), include_usage=False, continuous_usage=False, per_prompt=2, choices=2
        )
        assert stream.feed(head + broken + DONE) == b""
        assert stream.failure is not None


def test_an_event_without_end_ends_the_stream_before_it_fills_the_memory() -> None:
    stream = rewriter()
    first = finished(0, None)
    assert stream.feed(first + b"data: ") != b""
    fed = 0
    while stream.failure is None and fed <= MOST_EVENT_BYTES:
        fed += 1 << 20
        assert stream.feed(b"x" * (1 << 20)) == b""
    assert str(stream.failure) == "The engine sent an event that is too large."
    assert not stream.saw_end


def test_odd_counts_do_not_break_a_stream_and_are_no_exact_evidence() -> None:
    stream = rewriter()
    odd = engine_stream(["a"]).replace(b'"completion_tokens":1', b'"completion_tokens":-9223372036854775808')
    assert stream.feed(odd).endswith(DONE)
    assert stream.count() == (Usage(5, 0, 3), UsageSource.ESTIMATED)
