"""LLM as judge: compare two answers by a rubric, twice, with the sides swapped.

An answer wins when both judgements prefer it; otherwise it is a tie, and the disagreement of the judge with itself is
reported. Replies other than the three words, and timeouts, are counted and never guessed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.eval.answers import Answer, Journal
from trainer.eval.endpoints import complete
from trainer.eval.examples import EvalExample
from trainer.eval.runner import run_jobs
from trainer.eval.statistics import MetricSample
from trainer.eval.task import JudgeTable

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_SYSTEM = (
    "You compare two answers to the same question. What makes an answer better:\n{rubric}\n\n"
    "Reply with one word alone: A if the first answer is better, B if the second one is, TIE if neither is."
)
_USER = "Question:\n{question}\n\nA good answer, for reference:\n{expected}\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}"
_WORD = re.compile(r"\W*(A|B|TIE)\W*", re.IGNORECASE)
_SIDES = ("forward", "swapped")
_NONSENSE = "nonsense"


@dataclass(frozen=True)
class Judged:
    """One arm against the reference: the preference per example, and statistics of the judge."""

    series: MetricSample
    facts: Mapping[str, Any]
    unjudged: tuple[int, ...]


@dataclass(frozen=True)
class Judge:
    """Judge the answers of arms against those of a reference arm."""

    table: JudgeTable
    client: "AsyncOpenAI"
    journal: Journal
    concurrency: int

    async def compare(
        self, items: Sequence[EvalExample], answers: Mapping[str, Sequence[Answer]], reference: str
    ) -> dict[str, Judged]:
        """Judge every arm against the reference; the reference itself gets one half, by definition."""
        arms = [name for name in answers if name != reference]
        failed: dict[tuple[str, int], str] = {}

        async def one(arm: str, at: int, side: str) -> None:
            pair = (answers[arm][at], answers[reference][at])
            given = await self._ask(_name(arm, side), items[at], pair if side == _SIDES[0] else pair[::-1])
            self.journal.add(given)
            if given.error is not None:
                failed[given.arm, given.line] = given.error

        wanted = list(self._wanted(arms, items, answers, reference))
        await run_jobs(wanted, one, self.concurrency)
        judged = {arm: self._judged(arm, items, answers[arm], answers[reference], failed) for arm in arms}
        own = MetricSample.mean_of([0.5] * len(items))
        return judged | {reference: Judged(own, {"reference": True}, ())}

    def _wanted(
        self, arms: Sequence[str], items: Sequence[EvalExample], answers: Mapping[str, Sequence[Answer]], reference: str
    ) -> Iterator[tuple[str, int, str]]:
        for at, arm, side in product(range(len(items)), arms, _SIDES):
            mine, other = answers[arm][at], answers[reference][at]
            known = (_name(arm, side), mine.line) in self.journal.answers
            if mine.error is None and other.error is None and mine.text != other.text and not known:
                yield arm, at, side

    async def _ask(self, name: str, example: EvalExample, pair: Sequence[Answer]) -> Answer:
        question = _USER.format(question=example.question, expected=example.expected, a=pair[0].text, b=pair[1].text)
        messages = [
            {"role": "system", "content": _SYSTEM.format(rubric=self.table.rubric)},
            {"role": "user", "content": question},
        ]
        defaults = {"temperature": 0.0, "max_tokens": 16}
        request = {n: v for n, v in defaults.items() if n not in self.table.omit} | self.table.request
        given = await complete(self.client, name, example.line, self.table.model, messages, request)
        if given.error is None and not _WORD.fullmatch(given.text):
            return Answer(name, example.line, text=given.text, error=f"{_NONSENSE}: {given.text[:80]!r}")
        return given

    def _judged(
        self,
        arm: str,
        items: Sequence[EvalExample],
        mine: Sequence[Answer],
        other: Sequence[Answer],
        failed: Mapping[tuple[str, int], str],
    ) -> Judged:
        values, agreed, both_judged, ties = [], 0, 0, 0
        for at, example in enumerate(items):
            if mine[at].error is not None or other[at].error is not None:
                values.append(np.nan)
                continue
            if mine[at].text == other[at].text:
                values.append(0.5)
                continue
            choices = [self._choice(arm, side, example.line) for side in _SIDES]
            if None in choices:
                values.append(np.nan)
                continue
            both_judged += 1
            agreed += choices[0] == choices[1]
            values.append({"A": 1.0, "B": 0.0}.get(choices[0] or "", 0.5) if choices[0] == choices[1] else 0.5)
            ties += values[-1] == 0.5
        mine_failed = [error for (name, _), error in failed.items() if name in {_name(arm, side) for side in _SIDES}]
        nonsense = sum(error.startswith(_NONSENSE) for error in mine_failed)
        facts = {
            "model": self.table.model,
            "judged": both_judged,
            "ties": int(ties),
            "agreement": agreed / both_judged if both_judged else None,
            "nonsense": nonsense,
            "no_answer": len(mine_failed) - nonsense,
        }
        unjudged = tuple(example.line for example, value in zip(items, values, strict=True) if np.isnan(value))
        return Judged(MetricSample.mean_of(values), facts, unjudged)

    def _choice(self, arm: str, side: str, line: int) -> str | None:
        """Return the better side, A being the arm; None without a usable reply."""
        given = self.journal.answers.get((_name(arm, side), line))
        word = _WORD.fullmatch(given.text) if given else None
        if word is None:
            return None
        letter = word[1].upper()
        return letter if side == _SIDES[0] else {"A": "B", "B": "A"}.get(letter, letter)


def _name(arm: str, side: str) -> str:
    return f"judge:{side}:{arm}"
