"""Advice: the answer for a case with the rule behind it, as it is shown, kept and carried by later runs."""

import glob
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.advice.case import Case
from trainer.advice.rules import REMINDER_DAYS, Rule, RuleAnswer, judge
from trainer.errors import RecipeError
from trainer.files import replacing

FOLDER = "advice"


class Ground(BaseModel):
    """A rule that holds, in words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    answer: RuleAnswer
    because: str
    number: str
    source: str
    disputed: str
    change: str


class Advice(BaseModel):
    """What was advised when, on which facts; `measured` holds how facts that nobody had to say were found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    created_at: str
    case: Case
    measured: Mapping[str, Any] = {}
    decided: Ground
    also: tuple[Ground, ...] = ()
    unknown: tuple[str, ...] = ()
    come_back_on: str | None = None

    @property
    def answer(self) -> RuleAnswer:
        """The answer."""
        return self.decided.answer

    def save(self, data_dir: Path) -> Path:
        """Keep it as `<data dir>/advice/<name>-<time>.json`, which is returned."""
        when = datetime.fromisoformat(self.created_at)
        path = data_dir / FOLDER / f"{self.case.name}-{when:%Y%m%dT%H%M%S%fZ}.json"
        with replacing(path) as file:
            json.dump(self.model_dump(mode="json"), file, indent=2, ensure_ascii=False)
            file.write("\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read advice that was kept; raises `RecipeError`."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise RecipeError(
                f"{path} cannot be read ({error.strerror}); give a file of `turntable advise`."
            ) from error
        except ValidationError as error:
            raise RecipeError(f"{path} is no advice of `turntable advise`: {error.errors()[0]['msg']}.") from error


def advise(case: Case, measured: Mapping[str, Any] | None = None) -> Advice:
    """Judge a case now."""
    decided, also = judge(case)
    now = datetime.now(UTC)
    back = now + timedelta(days=REMINDER_DAYS) if decided.name in ("bar_met", "eighty_percent") else None
    return Advice(
        created_at=now.isoformat(),
        case=case,
        measured=measured or {},
        decided=_ground(decided, case),
        also=tuple(_ground(rule, case) for rule in also),
        unknown=case.unknown,
        come_back_on=back.date().isoformat() if back else None,
    )


def newest_advice(data_dir: Path, name: str) -> Path | None:
    """The newest advice that was kept for a task of this name."""
    found = [
        path
        for path in (data_dir / FOLDER).glob(f"{glob.escape(name)}-????????T*Z.json")
        if Advice.read(path).case.name == name
    ]
    return max(found, key=lambda path: path.name, default=None)


def carried(advice: Advice, path: Path, despite: str | None) -> dict[str, Any]:
    """What a run keeps of the advice that it was started with, or against."""
    return {
        "answer": advice.answer.value,
        "rule": advice.decided.rule,
        "because": advice.decided.because,
        "created_at": advice.created_at,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "despite": despite,
    }


def advice_of_run(name: str, data_dir: Path, file: Path | None, despite: str | None) -> dict[str, Any] | None:
    """The advice that a run named `name` goes by: `file`, or else the newest there is; None when there is none.

    Raises `RecipeError` when it does not say FINE_TUNE and nobody gives a reason to train all the same.
    """
    path = file or newest_advice(data_dir, name)
    if path is None:
        if despite:
            raise RecipeError(
                f"--despite-advice: there is no advice for {name}; leave it out, or run turntable advise."
            )
        return None
    advice = Advice.read(path)
    if advice.answer != RuleAnswer.FINE_TUNE and not (despite and despite.strip()):
        raise RecipeError(
            f"the advice for {advice.case.name} is {spoken(advice.answer)}: {advice.decided.because} ({path}); "
            "follow it, ask again with `turntable advise`, or train all the same with --despite-advice REASON."
        )
    return carried(advice, path, despite if advice.answer != RuleAnswer.FINE_TUNE else None)


def spoken(answer: RuleAnswer) -> str:
    """An answer as people read it."""
    return {RuleAnswer.FINE_TUNE: "FINE-TUNE", RuleAnswer.NOT_YET: "NOT YET"}.get(answer, answer.value)


def _ground(rule: Rule, case: Case) -> Ground:
    return Ground(
        rule=rule.name,
        answer=rule.answer,
        because=rule.because(case),
        number=rule.number,
        source=rule.source,
        disputed=rule.disputed,
        change=rule.change,
    )
