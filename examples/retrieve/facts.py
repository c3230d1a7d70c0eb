"""The metric of the task: whether the answer holds the wanted time, price or number."""

import re


def has_fact(answer: str, expected: str, row: object) -> bool:
    """Whether the figure of the expected answer stands in the answer, as a whole figure."""
    figure = expected.removesuffix(" euros")
    return re.search(rf"(?<![\d.:]){re.escape(figure)}(?!\d|[.:]\d)", answer) is not None
