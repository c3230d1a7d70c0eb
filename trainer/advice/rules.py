"""Advice rules: when to prompt, retrieve, fine-tune or wait, with thresholds, sources and where sources disagree.

`RULES` are checked in order and the first that holds decides; the last one always holds. `ARTICLES` has the sources in
full, read in November 2026. None of them gives a source for its numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from trainer.advice.case import Case
from trainer.data.findings import SIZES

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


class RuleAnswer(StrEnum):
    """The advice."""

    PROMPT = "PROMPT"
    RETRIEVE = "RETRIEVE"
    FINE_TUNE = "FINE_TUNE"
    NOT_YET = "NOT_YET"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: condition, answer, threshold, the sources for and against it, and what would change the answer."""

    name: str
    answer: RuleAnswer
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
    """The minimum number of examples for the kind of task, per class for a classification."""
    return SIZES[case.kind].minimum if case.kind else LEAST_EXAMPLES


def counted_examples(case: Case) -> int | None:
    """The number to compare with `least_examples`: the examples of the smallest class for a classification."""
    per_class = case.kind is not None and SIZES[case.kind].per_class
    return case.smallest_class if per_class and case.smallest_class is not None else case.examples


def shrinks(case: Case) -> bool:
    """Whether the aim is a small tuned model instead of a large prompted one, at a volume that pays for it."""
    return case.wish in ("cost", "latency") and (case.requests_per_day or 0) >= SHRINKING_PER_DAY


def reaches(case: Case, share: float) -> bool:
    """Whether the prompted base reaches `share` of the bar."""
    if case.prompt_score is None or case.bar is None:
        return False
    return case.prompt_score >= share * case.bar - _ROUNDING


def changes_often(case: Case) -> bool:
    """Whether facts change faster than a model is retrained, without retrieval that adds them to the prompt."""
    return case.facts_change in ("monthly", "weekly", "daily") and not case.retrieval


def has_too_few(case: Case) -> bool:
    """Whether there are fewer examples than the kind of task needs, or their number is unknown."""
    examples = counted_examples(case)
    return examples is None or examples < least_examples(case)


def reached(case: Case) -> str:
    """The score of the prompted base and its share of the bar, as a clause."""
    if case.prompt_score is None or case.bar is None:
        return "the prompted base was not measured against a bar"
    of_bar = case.prompt_score / case.bar
    return f"the prompted base scores {case.prompt_score:.0%} where {case.bar:.0%} is required: {of_bar:.0%} of the bar"


def examples_sentence(case: Case) -> str:
    """The number of labelled examples and the minimum, as a clause."""
    examples = counted_examples(case)
    each = " in its smallest class" if examples is not None and examples != case.examples else ""
    have = (
        "labelled examples were not counted" if examples is None else f"there are {examples:,} labelled examples{each}"
    )
    return f"{have}, and {f'a {case.kind} task' if case.kind else 'a task of any kind'} needs {least_examples(case):,}"


def judge(case: Case) -> tuple[Rule, tuple[Rule, ...]]:
    """The first rule that holds, and the later ones with the same conclusion for or against training."""
    first, *others = (rule for rule in RULES if rule.holds(case))
    tunes = first.answer == RuleAnswer.FINE_TUNE
    also = (rule for rule in others if (rule.answer == RuleAnswer.FINE_TUNE) == tunes and rule is not RULES[-1])
    return first, tuple(also)


RULES: tuple[Rule, ...] = (
    Rule(
        "prompt_untried",
        RuleAnswer.PROMPT,
        lambda case: not case.prompt_tried and case.prompt_score is None,
        lambda case: "no prompt has been evaluated yet",
        "an hour with 3 to 5 examples in the prompt; up to 16",
        "Precision, step 1; Layer3 and WFE put prompting first as well",
        "how long: an hour (Precision), minutes (Jacar), the first one to two weeks (Layer3)",
        "a score of the prompted base on held-out rows, which --task measures",
    ),
    Rule(
        "no_metric",
        RuleAnswer.NOT_YET,
        lambda case: case.metric is None or case.bar is None,
        lambda case: (
            f"there is no {'metric' if case.metric is None else 'bar'}, so a gain by training could not be measured"
        ),
        "one metric and the value that is good enough, fixed before the run",
        "Layer3 (no way to measure: skip); Precision, step 4",
        "",
        "a metric and a bar",
    ),
    Rule(
        "prompt_unscored",
        RuleAnswer.NOT_YET,
        lambda case: bool(case.prompt_tried) and case.prompt_score is None,
        lambda case: "the prompt was tried, but not measured on held-out rows",
        "a score of the prompted base, before and after",
        "Precision, step 4; Layer3 (an evaluation against a well-prompted base, set up before training)",
        "",
        "prompt_score, which --task measures",
    ),
    Rule(
        "bar_met",
        RuleAnswer.PROMPT,
        lambda case: reaches(case, 1.0) and not shrinks(case),
        lambda case: f"{reached(case)}; it is good enough already",
        "100 % of the bar",
        "Layer3 (the base already meets the bar: skip)",
        "",
        "a higher bar; or a wish for lower cost or latency at a volume that pays for it",
    ),
    Rule(
        "eighty_percent",
        RuleAnswer.PROMPT,
        lambda case: reaches(case, ENOUGH_SHARE) and not shrinks(case),
        lambda case: f"{reached(case)}; ship the prompt, collect failures, and reconsider in three months",
        "80 % of the bar; 90 days",
        "Precision, step 1 (ship it, do not fine-tune, come back in three months with real failures)",
        "Precision itself names formats as the exception: 90 % by prompting, 99 % by tuning. Shares of cases that "
        "need no tuning: 70 % (CTO), 80 % (Precision, Jacar), 90 % and 97 % (Precision)",
        "a bar that is a hard requirement (train with --despite-advice), or failures that no prompt fixes",
    ),
    Rule(
        "private_knowledge",
        RuleAnswer.RETRIEVE,
        lambda case: case.need == "know" and bool(case.private),
        lambda case: "the model lacks knowledge that must not leave your machines: a self-hosted index keeps it there",
        "no number",
        "Layer3, Precision, Jacar, WFE (never tune for knowledge)",
        "CTO tunes for proprietary knowledge that must never leave; retrieval on your own machines does that too",
        "evidence that the model has the knowledge and only its form of answer is wrong",
    ),
    Rule(
        "knowledge",
        RuleAnswer.RETRIEVE,
        lambda case: case.need == "know",
        lambda case: "the model lacks knowledge, which retrieval adds to the prompt and fine-tuning stores unreliably",
        "gains of 5 to 20 points by retrieval where knowledge is missing",
        "Precision, step 2; Layer3 (it needs to know X: retrieval); Jacar; WFE",
        "CTO alone tunes for proprietary knowledge; Precision's own example of +7 points is no controlled comparison",
        "evidence that the model has the knowledge and only its form of answer is wrong",
    ),
    Rule(
        "changing_facts",
        RuleAnswer.RETRIEVE,
        changes_often,
        lambda case: f"facts in the answers change {case.facts_change}, faster than the model would be retrained",
        "monthly or more often; the articles say fresh or changing, the threshold is ours",
        "Layer3 (fresh or changing facts: skip)",
        "",
        "retrieval of the facts (retrieval = true), so that training teaches only the form",
    ),
    Rule(
        "recall_unmeasured",
        RuleAnswer.RETRIEVE,
        lambda case: case.need == "both" and case.recall is None,
        lambda case: "the model lacks knowledge among other things, and the recall of retrieval was not measured",
        "recall@k on held-out questions",
        "Precision, step 2 (run evals on retrieval recall before touching weights)",
        "",
        "a measured recall, after which training may teach the form",
    ),
    Rule(
        "need_unclear",
        RuleAnswer.PROMPT,
        lambda case: case.need in (None, "unsure"),
        lambda case: "it is not clear whether the model lacks knowledge or behaviour",
        "no number",
        "Layer3 (not sure: prompt harder first)",
        "",
        "twenty failures labelled by hand: missing knowledge or wrong behaviour",
    ),
    Rule(
        "handful",
        RuleAnswer.PROMPT,
        lambda case: case.requests_per_day is not None and case.requests_per_day < HANDFUL_PER_DAY,
        lambda case: f"{case.requests_per_day} requests a day do not pay for data and training",
        f"fewer than {HANDFUL_PER_DAY} a day; the article says a handful, the threshold is ours",
        "Layer3 (a handful of requests a day: skip)",
        "break-even: within weeks (Precision), three to six months at 100,000 calls a month (CTO); "
        "`turntable costs breakeven` computes with your own prices",
        "more traffic",
    ),
    Rule(
        "labels_disagree",
        RuleAnswer.NOT_YET,
        lambda case: case.labels_agree is False,
        lambda case: "the examples contradict each other or have data errors, and the model would learn those",
        "no red finding in `turntable data check`, contradictions in at most 1 % of the rows (that threshold is ours)",
        "Layer3 (no consistent labelled data set: skip; disagreeing examples teach the confusion); Precision",
        "",
        "corrected data",
    ),
    Rule(
        "too_few",
        RuleAnswer.NOT_YET,
        has_too_few,
        lambda case: f"{examples_sentence(case)}; keep examples in the prompt until then",
        "100 style, 200 format or unknown, 500 vocabulary, 50 per class, 1,000 instructions",
        "Precision, its table by kind of task, and step 3 (200 before training anything)",
        "50 to 100 overfit (Precision), 100 are noticeable (WFE), 500 or use prompting (WFE, its tree), 500 to 5,000 "
        "(Jacar), hundreds to low thousands (Layer3)",
        "more labelled examples",
    ),
    Rule(
        "smaller_model",
        RuleAnswer.FINE_TUNE,
        shrinks,
        lambda case: (
            f"{case.requests_per_day:,} requests a day are a volume from which a small tuned model pays according "
            f"to an article, and the aim is {case.wish}; for money, only if `turntable costs breakeven "
            f"--requests-per-day {case.requests_per_day}` with your lengths, model and GPU shows that your own engine "
            "is cheaper; otherwise keep the prompt"
        ),
        f"{SHRINKING_PER_DAY:,} requests a day, which is 100,000 a month; it depends on the request: with "
        "1,000 tokens in and 100 out on a rented H100 your own engine is cheaper from 3,000 to 390,000 a day, by model",
        "CTO (100,000 calls a month; latency); WFE (a 7B at a twentieth of the cost); Jacar (10 to 20 % per token)",
        "pays back within weeks (Precision) or in three to six months (CTO)",
        "less traffic, or `turntable costs breakeven` showing that the large model is cheaper at this volume",
    ),
    Rule(
        "form_and_facts",
        RuleAnswer.FINE_TUNE,
        lambda case: case.need == "both",
        lambda case: f"{reached(case)}; train the form, retrieve the facts, and put both into the examples",
        "both together beat either alone",
        "Layer3 (tuned format and retrieved facts)",
        "",
        "the arms `retrieval` and `adapter+retrieval` of `turntable compare` show otherwise",
    ),
    Rule(
        "pilot",
        RuleAnswer.FINE_TUNE,
        lambda case: case.examples is not None and case.examples < FEW_SHOT_RIVALS,
        lambda case: (
            f"{reached(case)}; {case.examples:,} examples are enough for a pilot, which the prompt may still beat"
        ),
        f"{FEW_SHOT_RIVALS} examples",
        "Precision, its table by kind of task; Jacar (16 examples in a large model's prompt often beat a tuned 7B)",
        "WFE says fewer than 500: use prompting, and in its next line that 100 are noticeable",
        "`turntable compare` with the prompted arm: below 5 points over it, keep the prompt",
    ),
    Rule(
        "behaviour",
        RuleAnswer.FINE_TUNE,
        lambda case: True,
        lambda case: f"{reached(case)}; the model lacks the behaviour, and there are enough examples to teach it",
        "a gain of at least 5 points over the better of base and prompted base",
        "Precision (format, voice, vocabulary, narrow tasks); Layer3 (always respond like this); CTO; Jacar; WFE",
        "Precision expects gains from 3 points with LoRA, and calls 5 worthwhile",
        "a better prompt that reaches 80 % of the bar",
    ),
)
