"""The metric of the task: whether an answer comes to the point, as the raters wanted it."""

import re

_PADDING = re.compile(
    r"thank you for|great question|happy to help|appreciate|hope this|hesitate|anything else|important to|"
    r"it depends|here are|certainly|i understand|sorry",
    re.IGNORECASE,
)
MOST_WORDS = 30


def is_direct(answer: str, expected: str, row: object) -> bool:
    """Whether an answer has 1 to 30 words on one line and none of a service desk's phrases."""
    words = answer.split()
    return 0 < len(words) <= MOST_WORDS and "\n" not in answer.strip() and not _PADDING.search(answer)
