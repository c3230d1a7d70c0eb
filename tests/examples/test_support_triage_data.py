"""The support-triage data keeps its promises: valid answers, balanced classes, and no test message leaked
into training."""

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import jsonschema
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "support-triage"
SYSTEM_PROMPT = "Triage the customer message. Reply with JSON: category, priority, summary."
CATEGORIES = ("billing", "shipping", "returns", "account", "technical", "product")
PRIORITIES = ("high", "normal", "low")
BOTH_FILES = pytest.mark.parametrize("name", ["train.jsonl", "test.jsonl"])


class Row(NamedTuple):
    """One customer message, the answer as written in the file, and that answer parsed."""

    message: str
    answer: str
    triage: dict[str, str]


def read_rows(name: str) -> list[Row]:
    """Every row of a data file; fails where a row is not the system, user and assistant messages."""
    return [read_row(line) for line in (EXAMPLE / name).read_text(encoding="utf-8").splitlines()]


def read_row(line: str) -> Row:
    row = json.loads(line)
    assert list(row) == ["messages"]
    system, user, assistant = row["messages"]
    assert system == {"role": "system", "content": SYSTEM_PROMPT}
    assert (list(user), user["role"]) == (["role", "content"], "user")
    assert (list(assistant), assistant["role"]) == (["role", "content"], "assistant")
    return Row(user["content"], assistant["content"], json.loads(assistant["content"]))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def five_grams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[start : start + 5]) for start in range(max(1, len(found) - 4))}


def jaccard(left: set[tuple[str, ...]], right: set[tuple[str, ...]]) -> float:
    return len(left & right) / len(left | right)


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:[.,]\d+)*", text))


def test_schema_is_a_valid_2020_12_schema_that_closes_the_answer() -> None:
    schema = json.loads((EXAMPLE / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["required"] == ["category", "priority", "summary"]
    assert schema["additionalProperties"] is False
    assert tuple(schema["properties"]["category"]["enum"]) == CATEGORIES
    assert tuple(schema["properties"]["priority"]["enum"]) == PRIORITIES


@BOTH_FILES
def test_every_answer_validates_and_serialises_to_the_same_line(name: str) -> None:
    validator = jsonschema.Draft202012Validator(json.loads((EXAMPLE / "schema.json").read_text()))
    for row in read_rows(name):
        validator.validate(row.triage)
        assert list(row.triage) == ["category", "priority", "summary"]
        assert json.dumps(row.triage) == row.answer


@BOTH_FILES
def test_messages_and_summaries_keep_their_word_limits(name: str) -> None:
    for row in read_rows(name):
        assert 8 <= len(row.message.split()) <= 70, row.message
        assert 4 <= len(row.triage["summary"].split()) <= 12, row.triage["summary"]


@BOTH_FILES
def test_summaries_hold_no_quotes_and_only_numbers_from_the_message(name: str) -> None:
    for row in read_rows(name):
        summary = row.triage["summary"]
        assert not re.search(r"[\"'`\n]", summary), summary
        assert numbers(summary) <= numbers(row.message), summary


@BOTH_FILES
def test_complete_addresses_are_at_example_com(name: str) -> None:
    for row in read_rows(name):
        domains = re.findall(r"@([\w-]+(?:\.[\w-]+)+)", row.message)
        assert {domain.rstrip(".") for domain in domains} <= {"example.com"}, row.message


@pytest.mark.parametrize(
    ("name", "rows", "fewest", "most"), [("train.jsonl", 480, 75, 85), ("test.jsonl", 100, 16, 18)]
)
def test_categories_are_balanced(name: str, rows: int, fewest: int, most: int) -> None:
    counts = Counter(row.triage["category"] for row in read_rows(name))
    assert counts.total() == rows
    assert all(fewest <= counts[category] <= most for category in CATEGORIES), counts


@BOTH_FILES
def test_priorities_are_about_30_45_and_25_percent_and_occur_in_every_category(name: str) -> None:
    rows = read_rows(name)
    counts = Counter(row.triage["priority"] for row in rows)
    for priority, share in zip(PRIORITIES, (0.30, 0.45, 0.25), strict=True):
        assert abs(counts[priority] / len(rows) - share) <= 0.03, (priority, counts)
    pairs = {(row.triage["category"], row.triage["priority"]) for row in rows}
    assert len(pairs) == len(CATEGORIES) * len(PRIORITIES)


def test_no_two_messages_are_the_same_after_normalisation() -> None:
    messages = [" ".join(words(row.message)) for row in read_rows("train.jsonl") + read_rows("test.jsonl")]
    assert [message for message, count in Counter(messages).items() if count > 1] == []


def test_no_two_messages_share_half_of_their_five_grams() -> None:
    rows = read_rows("train.jsonl") + read_rows("test.jsonl")
    grams = [(row.message, five_grams(row.message)) for row in rows]
    alike = [(a, b) for (a, left), (b, right) in combinations(grams, 2) if jaccard(left, right) >= 0.5]
    assert alike == []


def test_the_near_duplicate_measure_sees_one_changed_word() -> None:
    message = "My kettle from order 48213 leaks at the base and I would like a replacement sent to my home please"
    assert jaccard(five_grams(message), five_grams(message.replace("home", "office"))) >= 0.5
    assert jaccard(five_grams(message), five_grams("The courier never came with my parcel today")) == 0
