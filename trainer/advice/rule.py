"""What a rule is, and what the rules ask of a case: shares reached, examples counted, volumes that pay."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from trainer.advice.case import Case
from trainer.data.sizes import SIZES

ARTICLES = {
    "Layer3": "Layer3 Labs, buyers' guide to fine-tuning",
    "Precision": "Precision AI Academy, on when to fine-tune",
    "CTO": "an enterprise CTO's article on prompting, retrieval and tuning",
    "Jacar": "Jacar, on fine-tuning and its alternatives",
    "WFE": "the article Why Fine-Tuning Exists",
}
ENOUGH_SHARE = 0.8
HANDFUL_PER_DAY = 20
SHRINKING_PER_DAY = 3_300
LEAST_EXAMPLES = 200
FEW_SHOT_RIVALS = 500
REMINDER_DAYS = 90
_ROUNDING = 1e-9


class Answer(StrEnum):
    """What to do."""

    PROMPT = "PROMPT"
    RETRIEVE = "RETRIEVE"
    FINE_TUNE = "FINE_TUNE"
    NOT_YET = "NOT_YET"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: when it holds, what it answers, the number in it, who says so or otherwise, what would change it."""

    name: str
    answer: Answer
    holds: Callable[[Case], bool]
    because: Callable[[Case], str]
    number: str
    source: str
    disputed: str
    change: str


def articles_in(text: str) -> list[str]:
    """The articles that a source names, in full."""
    return [f"{short}: {full}" for short, full in ARTICLES.items() if short in text]


def least_examples(case: Case) -> int:
    """How many examples the kind of task needs to start with, per class where that counts."""
    return SIZES[case.kind].minimum if case.kind else LEAST_EXAMPLES


def counted_examples(case: Case) -> int | None:
    """The examples that are held against `least_examples`: those of the smallest class where that counts."""
    per_class = case.kind is not None and SIZES[case.kind].per_class
    return case.smallest_class if per_class and case.smallest_class is not None else case.examples


def shrinks(case: Case) -> bool:
    """Whether a small tuned model in place of a large prompted one is the point, and pays."""
    return case.wish in ("cost", "latency") and (case.requests_per_day or 0) >= SHRINKING_PER_DAY


def reaches(case: Case, share: float) -> bool:
    """Whether the prompted base scores so much of the bar."""
    if case.prompt_score is None or case.bar is None:
        return False
    return case.prompt_score >= share * case.bar - _ROUNDING


def changes_often(case: Case) -> bool:
    """Whether facts change faster than anybody trains, and nothing brings them into the prompt."""
    return case.facts_change in ("monthly", "weekly", "daily") and not case.retrieval


def has_too_few(case: Case) -> bool:
    """Whether examples are fewer than the kind of task needs, or uncounted."""
    examples = counted_examples(case)
    return examples is None or examples < least_examples(case)


def reached(case: Case) -> str:
    """How far the prompted base came, in words."""
    if case.prompt_score is None or case.bar is None:
        return "nobody has measured the prompted base against a bar"
    of_bar = case.prompt_score / case.bar
    return f"the prompted base scores {case.prompt_score:.0%} where {case.bar:.0%} is asked: {of_bar:.0%} of the bar"


def examples_sentence(case: Case) -> str:
    """How many examples there are and should be, in words."""
    examples = counted_examples(case)
    each = " in its smallest class" if examples is not None and examples != case.examples else ""
    have = (
        "nobody has counted labelled examples"
        if examples is None
        else f"there are {examples:,} labelled examples{each}"
    )
    return f"{have}, and {f'a {case.kind} task' if case.kind else 'a task of any kind'} needs {least_examples(case):,}"
