"""docs/how-to/train.md names tests that are there."""

import re

from tests.conftest import ROOT

TRAPS = 15


def test_each_trap_of_the_page_is_held_by_tests_that_exist() -> None:
    page = (ROOT / "docs" / "how-to" / "train.md").read_text(encoding="utf-8").partition("## Fifteen traps")[2]
    rows = [line for line in page.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, TRAPS + 1))
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"
