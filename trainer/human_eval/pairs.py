"""A pairwise evaluation: the answers of two arms of a comparison to the same examples, to be rated blind.

Examples with equal answers are not rated; they count as ties. The side of each arm and the order of the examples are
random for each rater, from the seed, so that a rater who comes back sees the same.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainer.errors import EvaluationError
from trainer.eval.answers import Answer, read_answers
from trainer.eval.examples import EvalExample, read_eval_set
from trainer.eval.freeze import identity
from trainer.eval.report import ComparisonReport
from trainer.eval.task import Task


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """One example; `mine` and `theirs` are the answers of the arm and of the one it is compared with."""

    item: EvalExample
    mine: str
    theirs: str


@dataclass(frozen=True)
class PairwiseEval:
    """The pairs of two arms to rate; `identical` lists the lines with equal answers."""

    report: Path
    arm: str
    against: str
    seed: int
    pairs: tuple[AnswerPair, ...]
    identical: tuple[int, ...]

    @cached_property
    def by_line(self) -> dict[int, AnswerPair]:
        """The pairs by the line of their example."""
        return {pair.item.line: pair for pair in self.pairs}

    @cached_property
    def sha256(self) -> str:
        """The identity that ratings belong to: arms, seed and every answer."""
        answers_of_pairs = [[pair.item.line, pair.mine, pair.theirs] for pair in self.pairs]
        content = json.dumps([self.arm, self.against, self.seed, answers_of_pairs], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def order(self, rater: str) -> list[int]:
        """Return the lines in the order for a rater."""
        return sorted(self.by_line, key=lambda line: self._drawn("order", rater, line))

    def is_swapped(self, rater: str, line: int) -> bool:
        """Whether the arm is on the right for a rater."""
        return self._drawn("side", rater, line)[0] % 2 == 1

    def _drawn(self, what: str, rater: str, line: int) -> bytes:
        return hashlib.sha256(f"{what}:{self.seed}:{line}:{rater}".encode()).digest()


def read_pairwise_eval(
    task: Task, report_path: Path, *, arm: str | None, against: str | None, seed: int
) -> PairwiseEval:
    """Read the answers of two arms, by default the gate's; raises `EvaluationError` when they cannot be compared."""
    report = ComparisonReport.read(report_path)
    if identity(task).sha256 != report.task.sha256:
        raise EvaluationError(f"{report_path} was made with another state of the task; run `turntable compare` again.")
    arm, against = arm or report.gate.arm, against or report.gate.against
    if arm is None or against is None:
        raise EvaluationError("the comparison has no verdict on two arms; name them with --arm and --against.")
    if arm == against:
        raise EvaluationError(f"{arm} cannot be compared with itself; name another arm with --against.")
    if report.answers is None:
        raise EvaluationError(f"{report_path} names no file of answers; run `turntable compare` again.")
    answers = list(read_answers(report_path.parent / report.answers))
    mine, theirs = (_answers(report, answers, name) for name in (arm, against))
    pairs = [AnswerPair(item, mine[item.line], theirs[item.line]) for item in read_eval_set(task).items]
    different = tuple(pair for pair in pairs if pair.mine != pair.theirs)
    if not different:
        raise EvaluationError(f"{arm} and {against} gave the same answers to every item; there is nothing to rate.")
    identical = tuple(pair.item.line for pair in pairs if pair.mine == pair.theirs)
    return PairwiseEval(report_path, arm, against, seed, different, identical)


def _answers(report: ComparisonReport, answers: Sequence[Answer], name: str) -> dict[int, str]:
    """Return the answers of one arm by line; an arm with a failed example cannot be rated fairly."""
    if failed := report.arm(name).failed:
        raise EvaluationError(f"{name} gave no answer on line {failed[0]}; continue with `turntable compare --resume`.")
    return {answer.line: answer.text for answer in answers if answer.arm == name and answer.error is None}
