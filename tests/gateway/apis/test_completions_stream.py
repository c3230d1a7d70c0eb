"""The stream rewriter: the same bytes out for any chunking, and only the stated rewriting."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from gateway.apis import Names
from gateway.apis.completions_stream import DONE, CompletionsStream
from gateway.usage import Evidence, Usage

ENGINE, CLIENT, PRINT = "tone@0123456789ab", "tone", "turntable+tone@0123456789ab"
TRICKY = [
    '"model":"tone@0123456789ab"',
    ',"usage":{"prompt_tokens":9}',
    '"choices":[]',
    "\n\ndata: [DONE]\n\n",
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
    chunks = [
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": ENGINE,
            "choices": [{"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}],
            "usage": usage_of(count),
        }
        for count, text in enumerate(texts, 1)
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


texts_strategy = st.lists(st.one_of(st.text(), st.sampled_from(TRICKY)), max_size=6)


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
    assert stream.count() == (Usage(), Evidence.NONE)
    first, rest = engine_stream(["a", "b", "c"]).split(b"\n\n", 1)
    stream.feed(first + b"\n\n")
    assert stream.count() == (Usage(prompt_tokens=5, completion_tokens=1), Evidence.LAST_CONTINUOUS)
    assert not stream.saw_end
    stream.feed(rest)
    assert stream.count() == (Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=3), Evidence.EXACT)
    assert stream.saw_end


def choice(index: int, prompt_tokens: int, completion_tokens: int) -> bytes:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return event({"model": ENGINE, "choices": [{"index": index, "text": "x"}], "usage": usage})


def test_a_broken_off_stream_of_many_choices_counts_each_choice_and_each_prompt_once() -> None:
    stream = CompletionsStream(
        Names(ENGINE, CLIENT), include_usage=False, continuous_usage=False, per_prompt=2, prompts=2
    )
    for index, prompt_tokens, done in ((0, 7, 1), (1, 7, 1), (2, 9, 1), (0, 7, 2), (0, 7, 3)):
        stream.feed(choice(index, prompt_tokens, done))
    assert stream.count() == (Usage(prompt_tokens=7 + 9, completion_tokens=3 + 1 + 1), Evidence.LAST_CONTINUOUS)


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
    assert stream.saw_error


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
