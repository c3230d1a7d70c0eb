"""The metric of the task: whether an answer says yes or no and then a detail that helps the guest."""

import re

_FIRST = re.compile(r"(?:Yes|No)\. \w")
LEAST_WORDS, MOST_WORDS = 7, 30


def is_complete(answer: str, expected: str, row: object) -> bool:
    """Whether an answer begins with "Yes." or "No.", has 7 to 30 words, and stands on one line."""
    one_line = "\n" not in answer.strip()
    return one_line and _FIRST.match(answer) is not None and LEAST_WORDS <= len(answer.split()) <= MOST_WORDS
