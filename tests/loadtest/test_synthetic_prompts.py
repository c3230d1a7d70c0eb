"""Lengths and made-up prompts."""

import numpy as np
import pytest

from loadtest.errors import InvalidWorkloadError
from loadtest.schedule import Plan
from loadtest.settings import RunSettings
from loadtest.workload import Lengths, RequestSpec

URL = "http://127.0.0.1:1"


def planned(settings: RunSettings) -> list[RequestSpec]:
    return list(Plan.of(settings).specs)


def drawn(text: str, count: int = 20_000) -> list[int]:
    rng = np.random.default_rng(1)
    lengths = Lengths.parse(text, "--x")
    return [lengths.draw(rng) for _ in range(count)]


def test_lengths_are_distributed_as_named() -> None:
    assert set(drawn("7", 10)) == {7}
    uniform = drawn("uniform:3:5")
    assert (min(uniform), max(uniform)) == (3, 5)
    assert np.mean(uniform) == pytest.approx(4, rel=0.01)
    lognormal = drawn("lognormal:200:0.5")
    assert np.mean(lognormal) == pytest.approx(200, rel=0.02)
    assert np.std(lognormal) / np.mean(lognormal) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    "text", ["", "0", "a", "uniform:5:3", "uniform:5", "lognormal:10:0", "normal:1:2", "1:2", "nan"]
)
def test_lengths_of_no_sense_are_refused_with_their_option(text: str) -> None:
    with pytest.raises(InvalidWorkloadError, match="--output-tokens must look like"):
        RunSettings(URL, ("base",), output_tokens=text)


def test_prompts_and_answers_have_the_lengths_asked_for() -> None:
    specs = planned(RunSettings(URL, ("base",), requests=5, prompt_words="9", output_tokens="4"))
    assert [len(spec.messages[0]["content"].split()) for spec in specs] == [9] * 5
    assert {(spec.max_tokens, spec.exact) for spec in specs} == {(4, True)}
    assert len({spec.messages[0]["content"] for spec in specs}) == 5


def test_a_shared_prefix_comes_first_in_every_request() -> None:
    specs = planned(RunSettings(URL, ("base",), requests=4, prompt_words="3", prefix_words=20))
    (system,) = {spec.messages[0]["content"] for spec in specs}
    assert {spec.messages[0]["role"] for spec in specs} == {"system"}
    assert len(system.split()) == 20


def test_every_turn_repeats_all_that_was_said_before() -> None:
    specs = planned(RunSettings(URL, ("base",), requests=8, turns=3, conversations=2, prompt_words="5"))
    assert [len(spec.messages) for spec in specs] == [1, 1, 3, 3, 5, 5, 1, 1]
    first, later = specs[0].messages, specs[2].messages
    assert later[0] == first[0]
    assert specs[4].messages[:3] == later
    assert specs[1].messages[0] != first[0]


def test_parts_of_a_plan_make_up_the_whole() -> None:
    settings = RunSettings(URL, ("a", "b"), requests=10, rate_per_s=5, prompt_words="uniform:1:20")
    whole, parts = Plan.of(settings), [Plan.of(settings, part, 3) for part in range(3)]
    specs = sorted((spec for part in parts for spec in part.specs), key=lambda spec: spec.index)
    assert specs == list(whole.specs)
    assert whole.offsets_s is not None
    expected = [next(whole.offsets_s) for _ in range(6)]
    assert [next(part.offsets_s) for _ in range(2) for part in parts if part.offsets_s] == expected
