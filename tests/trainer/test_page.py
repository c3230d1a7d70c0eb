"""docs/explanation/training-run.md names tests that are there."""

import re

from tests.conftest import ROOT

PITFALLS = 15


def test_each_pitfall_of_the_page_is_covered_by_tests_that_exist() -> None:
    page = (
        (ROOT / "docs" / "explanation" / "training-run.md")
        .read_text(encoding="utf-8")
        .partition("## Fifteen pitfalls")[2]
    )
    rows = [line for line in page.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, PITFALLS + 1))
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"
