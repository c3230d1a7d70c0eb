"""Prompt files and the split of requests over models."""

from collections import Counter
from pathlib import Path

import pytest

from loadtest.errors import InvalidWorkloadError
from loadtest.schedule import Plan
from loadtest.settings import RunSettings
from loadtest.workload import RequestSpec, read_prompts

URL = "http://127.0.0.1:1"


def planned(settings: RunSettings) -> list[RequestSpec]:
    return list(Plan.of(settings).specs)


def test_prompts_come_from_messages_without_the_final_answer_or_from_a_prompt(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n\n{"prompt":"c"}\n'
    )
    assert read_prompts(file) == [[{"role": "user", "content": "a"}], [{"role": "user", "content": "c"}]]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ('{"text":"a"}', 'needs "messages"'),
        ('{"messages":["a"]}', 'needs "messages"'),
        ("[]", 'needs "messages"'),
        ('{"messages":[{"role":"assistant","content":"b"}]}', "no message to answer"),
        ('{"messages":[]}', "no message to answer"),
    ],
)
def test_a_bad_prompt_is_reported_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt":"fine"}\n' + line + "\n")
    with pytest.raises(InvalidWorkloadError, match=rf"prompts\.jsonl:2: .*{problem}"):
        read_prompts(file)


def test_a_missing_or_empty_prompt_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidWorkloadError, match=r"none\.jsonl: cannot be read"):
        read_prompts(tmp_path / "none.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(InvalidWorkloadError, match=r"empty\.jsonl: has no prompts"):
        read_prompts(empty)


def test_models_get_equal_shares_in_mixed_order() -> None:
    specs = planned(RunSettings(URL, ("a", "b", "c"), requests=301, seed=1))
    assert [spec.index for spec in specs] == list(range(301))
    shares = Counter(spec.model for spec in specs)
    assert sorted(shares.values()) == [100, 100, 101]
    rounds = {tuple(spec.model for spec in specs[start : start + 3]) for start in range(0, 300, 3)}
    assert len(rounds) == 6


def test_the_same_seed_plans_the_same_requests() -> None:
    def plan(seed: int) -> list[RequestSpec]:
        return planned(RunSettings(URL, ("a", "b"), requests=50, seed=seed))

    assert plan(3) == plan(3)
    assert plan(3) != plan(4)
