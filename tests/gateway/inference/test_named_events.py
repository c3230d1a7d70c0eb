"""Streams of named events, as the engine sends them for responses and messages."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import Usage, UsageSource
from gateway.inference.formats import APIS, Names, StreamRewriter
from gateway.inference.formats.sse import MOST_EVENT_BYTES

NAMES = Names("tone@0123456789ab", "tone")


def event(name: str, **fields: object) -> bytes:
    data: bytes = orjson.dumps({"type": name, **fields})
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


RESPONSE = [
    event("response.created", response={"model": NAMES.engine_model, "usage": None}),
    event("response.in_progress", response={"model": NAMES.engine_model, "usage": None}),
    event("response.output_text.delta", delta=' "model":"tone@0123456789ab" '),
    event("response.output_text.delta", delta="ü😀"),
    event("response.output_text.done", text="…"),
    event(
        "response.completed",
        response={
            "model": NAMES.engine_model,
            "status": "completed",
            "usage": {"input_tokens": 4, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 1}},
        },
    ),
]
MESSAGE = [
    event("message_start", message={"model": NAMES.engine_model, "usage": {"input_tokens": 4, "output_tokens": 0}}),
    event("content_block_start", index=0),
    event("content_block_delta", delta={"type": "text_delta", "text": "You"}),
    event("content_block_delta", delta={"type": "text_delta", "text": " can"}),
    event("content_block_stop", index=0),
    event(
        "message_delta",
        delta={"stop_reason": "end_turn"},
        usage={"input_tokens": 1, "cache_read_input_tokens": 3, "output_tokens": 3},
    ),
    event("message_stop"),
]
STREAMS = {"/v1/responses": RESPONSE, "/v1/messages": MESSAGE}


def rewriter(path: str) -> StreamRewriter:
    api = APIS[path]
    body = {"model": "tone", "input": "x" * 40, "messages": [{}], "max_tokens": 9, "stream": True}
    return api.stream(api.parse(orjson.dumps(body), "base"), NAMES)


@pytest.mark.parametrize("path", list(STREAMS))
def test_the_model_gets_the_clients_name_and_text_passes_unchanged(path: str) -> None:
    left = rewriter(path).feed(b"".join(STREAMS[path]))
    events = left.split(b"\n\n")
    assert [part.split(b"\n")[0] for part in events] == [
        part.split(b"\n")[0] for part in b"".join(STREAMS[path]).split(b"\n\n")
    ]
    for before, after in zip(STREAMS[path], events, strict=False):
        if b"delta\n" in before and b"message_delta" not in before:
            assert after + b"\n\n" == before
    assert b'"model":"tone"' in left


@pytest.mark.parametrize(("path", "usage"), [("/v1/responses", Usage(4, 3, 1)), ("/v1/messages", Usage(4, 3, 3))])
def test_a_complete_stream_is_counted_exactly(path: str, usage: Usage) -> None:
    stream = rewriter(path)
    stream.feed(b"".join(STREAMS[path]))
    assert stream.saw_end
    assert stream.count() == (usage, UsageSource.EXACT)


@pytest.mark.parametrize("path", list(STREAMS))
def test_a_broken_off_stream_is_estimated_by_its_deltas(path: str) -> None:
    stream = rewriter(path)
    stream.feed(b"".join(STREAMS[path][:4]))
    usage, evidence = stream.count()
    assert not stream.saw_end
    assert evidence is UsageSource.ESTIMATED
    assert usage.completion_tokens == 2
    assert usage.prompt_tokens > 0


@pytest.mark.parametrize("path", list(STREAMS))
@given(sizes=st.lists(st.integers(min_value=1, max_value=300), max_size=40))
def test_any_chunking_gives_the_same_bytes(path: str, sizes: list[int]) -> None:
    whole, pieces, rest = rewriter(path), rewriter(path), b"".join(STREAMS[path])
    expected, got = whole.feed(rest), b""
    for size in sizes:
        got += pieces.feed(rest[:size])
        rest = rest[size:]
    assert got + pieces.feed(rest) == expected
    assert pieces.count() == whole.count()


@pytest.mark.parametrize("path", list(STREAMS))
@pytest.mark.parametrize(
    "failure", [b'event: error\ndata: {"type":"error"}\n\n', b'data: {"error": {"message": "/srv/x"}}\n\n']
)
def test_the_engines_words_about_a_failure_are_held_back(path: str, failure: bytes) -> None:
    stream = rewriter(path)
    assert stream.feed(failure) == b""
    assert stream.failure is not None
    assert stream.failure_event == failure.removesuffix(b"\n\n")
    assert stream.feed(b"".join(STREAMS[path])) == b""
    assert not stream.saw_end


ENDS = {"LF": b"\n", "CR": b"\r", "CRLF": b"\r\n"}


@pytest.mark.parametrize("path", list(STREAMS))
@pytest.mark.parametrize("end", list(ENDS.values()), ids=list(ENDS))
def test_lines_may_end_as_they_like_and_be_cut_anywhere(path: str, end: bytes) -> None:
    events = b"".join(STREAMS[path])
    expected, pieces = rewriter(path).feed(events), rewriter(path)
    sent = events.replace(b"\n", end)
    assert b"".join(pieces.feed(sent[place : place + 1]) for place in range(len(sent))) == expected
    assert pieces.saw_end


@pytest.mark.parametrize("path", list(STREAMS))
def test_nothing_that_follows_the_end_is_handed_on(path: str) -> None:
    stream = rewriter(path)
    assert stream.feed(b": before\n\n" + STREAMS[path][0]).startswith(b": before\n\n")
    stream.feed(b"".join(STREAMS[path][1:]))
    assert stream.feed(b": after\n\n" + STREAMS[path][-1]) == b""


def test_the_prompt_that_only_message_start_counts_is_billed() -> None:
    stream = rewriter("/v1/messages")
    stream.feed(event("message_start", message={"model": "x", "usage": {"input_tokens": 7, "output_tokens": 0}}))
    stream.feed(event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}))
    stream.feed(event("message_stop"))
    assert stream.count()[0] == Usage(7, 3)


UNFINISHED = {
    "/v1/responses": event("response.completed", response={"model": "x", "status": "in_progress", "usage": None}),
    "/v1/messages": event("message_delta", delta={"stop_reason": None}, usage={}) + event("message_stop"),
}
BROKEN = {
    "/v1/responses": b"event: response.completed\ndata: {\n\n",
    "/v1/messages": event("message_delta", delta=7),
}


@pytest.mark.parametrize("path", list(STREAMS))
@pytest.mark.parametrize("last", [UNFINISHED, BROKEN], ids=["unfinished", "broken"])
def test_a_stream_that_ends_without_saying_how_it_finished_is_a_failure(path: str, last: dict[str, bytes]) -> None:
    stream = rewriter(path)
    stream.feed(STREAMS[path][0])
    stream.feed(last[path])
    assert stream.failure is not None
    assert not stream.saw_end


def test_a_response_that_reached_its_limit_ends_incomplete() -> None:
    usage = {"input_tokens": 4, "output_tokens": 3}
    response = {"model": "x", "status": "incomplete", "usage": usage, "incomplete_details": None}
    stream = rewriter("/v1/responses")
    name, _, data = stream.feed(event("response.completed", response=response, sequence_number=9)).partition(b"\n")
    document = orjson.loads(data.removeprefix(b"data: "))
    assert name == b"event: response.incomplete"
    assert (document["type"], document["sequence_number"]) == ("response.incomplete", 9)
    assert document["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert stream.saw_end
    assert stream.count() == (Usage(4, 3), UsageSource.EXACT)


@pytest.mark.parametrize("path", list(STREAMS))
def test_a_stream_with_odd_counts_is_handed_on_and_estimated(path: str) -> None:
    odd = b"".join(STREAMS[path]).replace(b'_tokens":3', b'_tokens":-3')
    stream = rewriter(path)
    assert stream.feed(odd)
    assert stream.saw_end
    assert stream.count()[1] is UsageSource.ESTIMATED


@pytest.mark.parametrize("path", list(STREAMS))
def test_an_event_without_end_ends_the_stream_before_it_fills_the_memory(path: str) -> None:
    stream, fed = rewriter(path), 0
    while stream.failure is None and fed <= MOST_EVENT_BYTES:
        fed += 1 << 20
        assert stream.feed(b"x" * (1 << 20)) == b""
    assert str(stream.failure) == "The engine sent an event that is too large."
