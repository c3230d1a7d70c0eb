"""docs/reference/training-data.md says what the code does."""

import json
import re

import pytest

from tests.conftest import ROOT
from trainer.data import findings, pii, scan
from trainer.data import findings as sizes
from trainer.data.convert import convert
from trainer.data.estimate import ASSUMED_TOKENS_PER_S, ASSUMED_USD_PER_HOUR, CHARACTERS_PER_TOKEN, RUNS
from trainer.data.near_duplicates import DEFAULT_SIMILARITY, PERMUTATIONS
from trainer.data.rendering import MOST_RENDERED
from trainer.data.row_checks import check_row
from trainer.data.row_signs import SIGNS

PAGE = (ROOT / "docs" / "reference" / "training-data.md").read_text(encoding="utf-8")
ROWS = [line for line in re.findall(r"```json\n(.*?)\n```", PAGE, re.DOTALL) if '"action"' not in line]


@pytest.mark.parametrize("row", ROWS)
def test_every_example_of_a_row_is_one(row: str) -> None:
    fields = json.loads(row)
    assert list(check_row(fields)) == []
    assert list(check_row(convert(fields, "prompt-completion" if "prompt" in fields else "messages"))) == []


def test_the_page_shows_every_kind_of_row() -> None:
    assert len(ROWS) == 6


def test_every_finding_stands_in_the_table_and_no_other() -> None:
    source = (ROOT / "trainer" / "data" / "findings.py").read_text(encoding="utf-8")
    named = set(re.findall(r'Finding\(\s*\w+,\s*"(\w+)"', source)) | set(re.findall(r'\(\s*"(\w+)",\s*found\.', source))
    named |= {kind.lower() for kind in pii.KINDS} | set(SIGNS) | {"size"}
    rows = re.findall(r"(?m)^\| (`[a-z_` ]+`) \| (?:red|amber|by)", PAGE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == named
    assert findings.TOLERATED_LONG == 0.01


def test_the_table_of_sizes_is_the_one_that_is_judged_by() -> None:
    for task, size in sizes.SIZES.items():
        each = " per class" if size.per_class else ""
        assert f"| `{task}` | {size.minimum:,}{each} | {size.recommended:,} to {size.plenty:,}{each} |" in PAGE


def test_every_kind_of_personal_data_is_told() -> None:
    assert re.findall(r"(?m)^\| `([A-Z_]+)` \|", PAGE) == list(pii.KINDS)


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    low, high = ASSUMED_USD_PER_HOUR
    for said in (
        f"the first {scan.MAX_PLACES} places are kept",
        f"the first {scan.MAX_PROBLEMS:,}.",
        f"similarity of {DEFAULT_SIMILARITY} or more",
        f"MinHash with {PERMUTATIONS} permutations",
        f"a random sample of {MOST_RENDERED:,} is rendered",
        f"an assumption, and named as one: {ASSUMED_TOKENS_PER_S:,} tokens/s",
        f"or ${low:.0f} to ${high:.0f}",
    ):
        assert " ".join(said.split()) in " ".join(PAGE.split())
    assert (RUNS, CHARACTERS_PER_TOKEN) == ((2, 3), 4)
