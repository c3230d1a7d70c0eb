"""Summarize ratings: the preferred arm with a sign test, and the agreement of raters; export them as preference pairs.

The unit is the example, not the vote: several ratings of one example are not independent. An example goes to the arm
that most of its raters chose; without a majority it is a tie, which counts for neither side in the sign test. Agreement
is Krippendorff's alpha for nominal choices, for any number of raters and with gaps: 1 is full agreement, 0 is chance.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from trainer.errors import EvaluationError
from trainer.files import replacing
from trainer.human_eval.pairs import PairwiseEval
from trainer.human_eval.ratings import Choice, Votes, ratings_path


@dataclass(frozen=True, slots=True)
class Agreement:
    """`alpha` is None when all choices are equal; `same` is the share of pairs of ratings that agree."""

    alpha: float | None
    same: float | None
    items: int


def agreement(units: Iterable[Sequence[Hashable]]) -> Agreement:
    """Compute the agreement over units with their ratings; units with fewer than two are ignored."""
    rated = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter[Hashable] = Counter()
    agreeing = pairs = disagreeing = 0.0
    for counts in rated:
        size = counts.total()
        totals.update(counts)
        alike = sum(count * (count - 1) for count in counts.values())
        agreeing += alike / (size - 1)
        disagreeing += (size * (size - 1) - alike) / (size - 1)
        pairs += size
    if not rated:
        return Agreement(None, None, 0)
    n = totals.total()
    expected = (n * n - sum(count * count for count in totals.values())) / (n - 1)
    alpha = 1 - disagreeing / expected if expected else None
    return Agreement(alpha, agreeing / pairs, len(rated))


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preference(_Part):
    """The share of decided examples that went to the arm, with the exact 95 % interval."""

    value: float
    interval_95: tuple[float, float]
    of: int


class Agreed(_Part):
    """Krippendorff's alpha and the share of agreeing pairs, over the examples with two raters or more."""

    alpha: float | None
    same: float | None
    items: int


class HumanEvalResult(_Part):
    """The `human` block of a report."""

    format: int = 1
    arm: str
    against: str
    raters: int
    rated: int
    items: int
    identical: int
    won: int
    lost: int
    tied: int
    preference: Preference | None
    p_value: float | None
    agreement: Agreed
    sentence: str
    ratings: str
    ratings_sha256: str

    @classmethod
    def of(cls, evaluation: PairwiseEval, votes: Votes) -> Self:
        """Summarize the ratings of an evaluation."""
        outcomes = item_outcomes(votes)
        counts = Counter(outcomes.values())
        won, lost = counts["arm"], counts["against"]
        preference, p_value = _sign_test(won, lost)
        units = _units(votes).values()
        agreed = agreement([list(unit) for unit in units])
        path = ratings_path(evaluation)
        return cls(
            arm=evaluation.arm,
            against=evaluation.against,
            raters=len(votes),
            rated=len(outcomes),
            items=len(evaluation.pairs) + len(evaluation.identical),
            identical=len(evaluation.identical),
            won=won,
            lost=lost,
            tied=counts["tie"],
            preference=preference,
            p_value=p_value,
            agreement=Agreed(alpha=agreed.alpha, same=agreed.same, items=agreed.items),
            sentence=_sentence(evaluation, won, lost, preference, len(votes)),
            ratings=path.name,
            ratings_sha256=hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )

    def as_json(self) -> dict[str, Any]:
        """Return the block as plain data."""
        return self.model_dump(mode="json")


def item_outcomes(votes: Votes) -> dict[int, Choice]:
    """Return the majority choice, by line."""
    return {line: _majority(Counter(choices)) for line, choices in _units(votes).items()}


def _units(votes: Votes) -> Mapping[int, list[Choice]]:
    units: dict[int, list[Choice]] = {}
    for chosen in votes.values():
        for line, choice in chosen.items():
            units.setdefault(line, []).append(choice)
    return units


def _majority(counts: Counter[Choice]) -> Choice:
    if counts["arm"] == counts["against"]:
        return "tie"
    first: Choice = "arm" if counts["arm"] > counts["against"] else "against"
    return first if counts[first] > counts["tie"] else "tie"


def _sign_test(won: int, lost: int) -> tuple[Preference | None, float | None]:
    from scipy.stats import binomtest

    if not won + lost:
        return None, None
    test = binomtest(won, won + lost)
    low, high = test.proportion_ci(method="exact")
    preference = Preference(value=won / (won + lost), interval_95=(float(low), float(high)), of=won + lost)
    return preference, float(test.pvalue)


def _sentence(evaluation: PairwiseEval, won: int, lost: int, preference: Preference | None, raters: int) -> str:
    if preference is None:
        return f"No rater preferred {evaluation.arm} or {evaluation.against} on any item."
    low, high = preference.interval_95
    winner, count = (evaluation.arm, won) if won >= lost else (evaluation.against, lost)
    sure = "beyond chance" if low > 1 / 2 or high < 1 / 2 else "which chance can explain"
    people = "One rater" if raters == 1 else f"{raters} raters"
    return f"{people} preferred {winner} on {count} of {won + lost} items that were decided, {sure}."


@dataclass(frozen=True, slots=True)
class Exported:
    """The number of rows written, and of ties and empty answers left out."""

    rows: int
    ties: int
    empty: int


def export_pairs(evaluation: PairwiseEval, votes: Votes, path: Path) -> Exported:
    """Write the decided examples as preference pairs for dpo; raises `EvaluationError` when there are none."""
    outcomes = item_outcomes(votes)
    rows, empty = [], 0
    for line, outcome in sorted(outcomes.items()):
        pair = evaluation.by_line.get(line)
        if pair is None or outcome == "tie":
            continue
        better, worse = (pair.mine, pair.theirs) if outcome == "arm" else (pair.theirs, pair.mine)
        if not better.strip() or not worse.strip():
            empty += 1
            continue
        rows.append(
            {
                "input": {"messages": [dict(message) for message in pair.item.prompt]},
                "preferred_output": [{"role": "assistant", "content": better}],
                "non_preferred_output": [{"role": "assistant", "content": worse}],
            }
        )
    if not rows:
        raise EvaluationError("no example has a majority yet, so there are no pairs to write; rate more examples.")
    with replacing(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return Exported(len(rows), sum(outcome == "tie" for outcome in outcomes.values()), empty)
