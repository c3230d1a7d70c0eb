"""Rated pairs as training data: what most raters preferred, in the format that `method = "dpo"` takes."""

import json
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import EvaluationError
from trainer.files import replacing
from trainer.review.contest import Contest
from trainer.review.judgement import item_outcomes
from trainer.review.ratings import Votes


@dataclass(frozen=True, slots=True)
class Exported:
    """How many rows were written; ties teach nothing, and neither do empty answers."""

    rows: int
    ties: int
    empty: int


def export_pairs(contest: Contest, votes: Votes, path: Path) -> Exported:
    """Write the decided items as preference pairs; raises `EvaluationError` when there are none."""
    outcomes = item_outcomes(votes)
    rows, empty = [], 0
    for line, outcome in sorted(outcomes.items()):
        pair = contest.by_line.get(line)
        if pair is None or outcome == "tie":
            continue
        better, worse = (pair.mine, pair.theirs) if outcome == "arm" else (pair.theirs, pair.mine)
        if not better.strip() or not worse.strip():
            empty += 1
            continue
        rows.append(
            {
                "input": {"messages": [dict(message) for message in pair.item.asked]},
                "preferred_output": [{"role": "assistant", "content": better}],
                "non_preferred_output": [{"role": "assistant", "content": worse}],
            }
        )
    if not rows:
        raise EvaluationError("no item was decided by its raters yet, so there are no pairs to write; rate some more.")
    with replacing(path) as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return Exported(len(rows), sum(outcome == "tie" for outcome in outcomes.values()), empty)
