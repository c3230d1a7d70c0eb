"""The benchmark's client: an answer counts only when every word of it arrived."""

import pytest

from loadtest.bench.client import CollectedResponse, Phase, answer_error, run_phase
from loadtest.mock_engine import Fault, MockSettings, serving


def answer(body: bytes, status: int = 200) -> CollectedResponse:
    collected = CollectedResponse()
    collected.on_head(status, {})
    collected.on_data(body)
    return collected


def phase(url: str, *, stream: bool, words: int = 5, requests: int = 6) -> Phase:
    return Phase(int(url.rpartition(":")[2]), "", stream, words, 60, concurrency=2, requests=requests)


def test_a_stream_that_lacks_a_word_or_its_end_is_a_problem() -> None:
    words = b'data: {"content":"w0 "}\n\ndata: {"content":"w1 "}\n\n'
    assert answer_error(answer(words + b"data: [DONE]\n\n"), 2, stream=True) is None
    assert answer_error(answer(words + b"data: [DONE]\n\n"), 3, stream=True) == "2 chunks instead of 3"
    assert answer_error(answer(words), 2, stream=True) == "no [DONE]"


def test_a_plain_answer_with_other_text_or_status_is_a_problem() -> None:
    body = b'{"choices":[{"message":{"content":"w0 w1 "}}]}'
    assert answer_error(answer(body), 2, stream=False) is None
    assert answer_error(answer(body), 3, stream=False) == "wrong text"
    assert answer_error(answer(body, 503), 2, stream=False) == "status 503"
    assert answer_error(answer(b'{"error":1}'), 2, stream=False) == "not a chat completion"


def test_the_first_word_is_timed_also_when_it_comes_in_pieces() -> None:
    collected = answer(b'data: {"content":"')
    assert collected.first_text_s is None
    collected.on_data(b'w0 "}')
    assert collected.first_text_s is not None


@pytest.mark.parametrize("stream", [False, True])
def test_right_answers_are_counted_and_timed(stream: bool) -> None:
    with serving() as server:
        outcome = run_phase(phase(server.url, stream=stream))
    assert (outcome.completed, outcome.failed, outcome.peak_running) == (6, 0, 2)
    assert outcome.latency is not None
    assert outcome.latency.count == 6
    assert (outcome.ttft is not None) == stream


@pytest.mark.parametrize(
    ("fault", "stream", "kind"),
    [
        (Fault.ERROR_500, False, "status 500"),
        (Fault.DROP, True, "ConnectionResetError"),
        (Fault.DROP_MID_STREAM, True, "ConnectionResetError"),
        (Fault.ERROR_MID_STREAM, True, "2 chunks instead of 5"),
    ],
)
def test_nobody_wins_by_failing(fault: Fault, stream: bool, kind: str) -> None:
    with serving(MockSettings(fault=fault)) as server:
        outcome = run_phase(phase(server.url, stream=stream, requests=3))
    assert (outcome.completed, outcome.errors) == (0, {kind: 3})
    assert outcome.latency is None


def test_an_open_loop_sends_at_its_rate_and_keeps_the_ramp_out_of_the_latencies() -> None:
    with serving() as server:
        port = int(server.url.rpartition(":")[2])
        outcome = run_phase(Phase(port, "", False, 3, 1, rate_per_s=40, even=True, ramp_s=0.5))
    assert (outcome.completed, outcome.failed) == (40, 0)
    assert outcome.latency is not None
    assert outcome.latency.count == 20
