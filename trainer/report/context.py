"""A decision in its context: the verdict that counts, and the run, the data and the advice that led to it.

The verdict is the gate's, unless a blind human evaluation says otherwise.
"""

import glob
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adapters.manifest import TRAINING_FILE
from trainer.advice.advice import FOLDER, Advice, newest_advice
from trainer.advice.measure import DataFacts, check_data
from trainer.errors import EvaluationError
from trainer.eval.report import Arm, ComparisonReport, VerdictWord
from trainer.training.artifacts import RUN_FILE
from trainer.training.run_directory import RUNS_FOLDER, files_in_runs

COMPARISONS_FOLDER = "comparisons"
Tone = Literal["good", "bad", "unsure"]
_WORDS: dict[VerdictWord, tuple[str, Tone]] = {
    VerdictWord.PROMOTE: ("PROMOTE", "good"),
    VerdictWord.DO_NOT_DEPLOY: ("DO NOT DEPLOY", "bad"),
    VerdictWord.NOT_ENOUGH_ITEMS: ("NOT ENOUGH ITEMS", "unsure"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer in big words, and why in a sentence."""

    words: str
    sentence: str
    tone: Tone


def decided(report: ComparisonReport) -> ComparisonReport:
    """Return the report with the verdict that counts: raters can refuse what the figures allow."""
    gate = report.gate
    if gate.verdict is not VerdictWord.PROMOTE or not people_object(report):
        return report
    reason = f"The figures would allow it, people do not: {(report.human or {}).get('sentence', '')}"
    changed = gate.model_copy(update={"verdict": VerdictWord.DO_NOT_DEPLOY, "summary": reason})
    return report.model_copy(update={"gate": changed})


def outcome(report: ComparisonReport) -> Outcome:
    """Return what to do, in big words, and why."""
    gate = decided(report).gate
    if gate.verdict is None or not report.complete:
        return Outcome("NO VERDICT", gate.summary or "The comparison is not complete.", "unsure")
    words, tone = _WORDS[gate.verdict]
    return Outcome(words, gate.summary, tone)


def people_object(report: ComparisonReport) -> bool:
    """Return whether a blind human evaluation of the two arms of the gate prefers the other one, beyond chance."""
    human, gate = report.human or {}, report.gate
    preference = human.get("preference") or {}
    is_about = (human.get("arm"), human.get("against")) == (gate.arm, gate.against)
    return bool(is_about and preference.get("of") and preference["interval_95"][1] < 1 / 2)


@dataclass(frozen=True)
class DecisionContext:
    """A comparison and what led to it; `run`, `data` and `advice` are None where this machine has none."""

    path: Path
    report: ComparisonReport
    run: Mapping[str, Any] | None = None
    run_name: str | None = None
    data: DataFacts | None = None
    data_changed: bool = False
    advice: Advice | None = None

    @property
    def candidate(self) -> Arm | None:
        """The arm that the verdict is about; without a verdict, the last adapter."""
        if self.report.gate.arm:
            return self.report.arm(self.report.gate.arm)
        return next((arm for arm in reversed(self.report.arms) if arm.digest), None)

    @property
    def rival(self) -> Arm | None:
        """The arm that the candidate had to beat."""
        return self.report.arm(self.report.gate.against) if self.report.gate.against else None

    @property
    def gate_metric(self) -> str:
        """The metric that decides: against arms beside its rival, the candidate is compared on no other one."""
        mine = [d for d in self.report.differences if self.candidate and d.arm == self.candidate.name]
        decides = [d.metric for d in mine if d.against != self.report.gate.against] or [d.metric for d in mine]
        return next(iter(decides or self.report.arms[0].metrics))


def find_report(decision: str, data_dir: Path) -> Path:
    """Find the report of a path, a folder or a task's name (its newest); raises `EvaluationError`."""
    path = Path(decision)
    if path.is_file():
        return path
    if (path / "report.json").is_file():
        return path / "report.json"
    folder = data_dir / COMPARISONS_FOLDER
    pattern = f"{glob.escape(decision.replace('/', '-'))}-*"
    dated = [
        (_made(one, decision), one) for one in [*folder.glob(f"{pattern}/report.json"), *folder.glob(f"{pattern}.json")]
    ]
    named = [(made, one) for made, one in dated if made]
    if not named:
        raise EvaluationError(
            f"{decision} is no report, and {folder} has no comparison of a task of that name; run `turntable compare`."
        )
    return max(named)[1]


def read_context(path: Path, data_dir: Path, *, check: bool = True) -> DecisionContext:
    """Read a report and find what led to it; `check` checks the training data again."""
    report = ComparisonReport.read(path)
    context = DecisionContext(path, report)
    digest = context.candidate.digest if context.candidate else None
    folder = _run_of(digest, data_dir) if digest else None
    run = _object(folder / TRAINING_FILE) if folder else None
    data, changed = _data(folder, run) if folder and run and check else (None, False)
    advice = _advice(run, report.task.name, data_dir)
    return DecisionContext(path, report, run, folder.name if folder else None, data, changed, advice)


def _made(path: Path, task: str) -> str | None:
    """Return when the report was made, if it is one of this task."""
    document = _object(path) or {}
    is_of_task = isinstance(document.get("task"), dict) and document["task"].get("name") == task
    return str(document.get("created_at", "")) if is_of_task else None


def _run_of(digest: str, data_dir: Path) -> Path | None:
    """Find the newest run whose adapter has this digest, or one that begins with it."""
    runs = sorted(files_in_runs(data_dir / RUNS_FOLDER, TRAINING_FILE), key=lambda one: -one.stat().st_mtime_ns)
    return next((one.parent for one in runs if str((_object(one) or {}).get("digest", "")).startswith(digest)), None)


def _data(folder: Path, run: Mapping[str, Any]) -> tuple[DataFacts | None, bool]:
    """Check the training file again, and return whether it has changed since it was trained on."""
    places = _object(folder / RUN_FILE) or {}
    path = Path(str(places.get("recipe_folder", ""))) / str(run["recipe"]["train"])
    if not path.is_file():
        return None, False
    data = check_data([path])
    return data, data.files[0].sha256 != run["data"]["train"]["sha256"]


def _advice(run: Mapping[str, Any] | None, task: str, data_dir: Path) -> Advice | None:
    """Read the advice that the run names, if its file is still here, or else the newest for the task."""
    carried = (run or {}).get("advice")
    path = data_dir / FOLDER / Path(str(carried["file"])).name if carried else newest_advice(data_dir, task)
    return Advice.read(path) if path is not None and path.is_file() else None


def _object(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
