"""A finished comparison of two arms on a small task, ready to be rated."""

import json
from dataclasses import asdict
from pathlib import Path

from tests.trainer.report.comparisons import HOSTILE, report, saved
from trainer.eval.answers import Answer
from trainer.eval.freeze import identity
from trainer.eval.report import TaskFacts
from trainer.eval.task import read_task

ITEMS = 12
ALIKE = 4  # the line on which both arms say the same
SYSTEM = "Answer kindly."
ARM, AGAINST = "secret-adapter", "secret-base"


def compared(folder: Path) -> tuple[Path, Path]:
    """The task file and the report of a comparison under `<folder>/var/comparisons`."""
    rows = [
        {
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": f"{HOSTILE} question {line}"},
                {"role": "assistant", "content": f"expected {line}"},
            ]
        }
        for line in range(1, ITEMS + 1)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task_file = folder / "task.toml"
    task_file.write_text('name = "kindness"\ndata = "test.jsonl"\n', encoding="utf-8")
    arms = [one.model_copy(update={"name": name}) for one, name in zip(report().arms[1:], (AGAINST, ARM), strict=True)]
    facts = TaskFacts(name="kindness", sha256=identity(read_task(task_file)).sha256, items=ITEMS, frozen_at=None)
    gate = report().gate.model_copy(update={"arm": ARM, "against": AGAINST})
    document = report(task=facts, arms=tuple(arms), gate=gate, differences=())
    path = saved(folder / "var" / "comparisons" / "kindness-1", document)
    lines = [json.dumps({"format": 1})]
    for line in range(1, ITEMS + 1):
        said = {ARM: f"{HOSTILE} better {line}", AGAINST: f"worse {line}"}
        if line == ALIKE:
            said[AGAINST] = said[ARM]
        lines += [json.dumps(asdict(Answer(arm, line, text, "stop"))) for arm, text in said.items()]
    path.with_name("answers.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return task_file, path
