"""The report of a decision: complete, honest about what is missing, and safe against what models write."""

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.trainer import commands
from tests.trainer.commands import run
from tests.trainer.conftest import WriteJsonl, chat
from tests.trainer.report.comparisons import HOSTILE, measure, report, saved, write_run
from trainer.advice.advice import advise
from trainer.advice.case import Case
from trainer.eval.report import ComparisonReport, Gate, VerdictWord

PREFERS_BASE = {
    "arm": "triage",
    "against": "prompted",
    "raters": 2,
    "rated": 40,
    "won": 5,
    "lost": 30,
    "tied": 5,
    "preference": {"value": 0.14, "interval_95": [0.06, 0.3], "of": 35},
    "p_value": 0.00002,
    "agreement": {"alpha": 0.71, "items": 30},
    "sentence": "People preferred prompted on 30 of 35 items.",
}


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def written(document: ComparisonReport, folder: Path) -> tuple[str, str]:
    """HTML and Markdown of a comparison, as the command writes them."""
    path = saved(folder / "var" / "comparisons" / "triage-1", document)
    result = run(commands.report, path, "--data-dir", folder / "var")
    assert result.exit_code == 0, result.output
    return tuple(path.with_name(f"triage-1-decision.{kind}").read_text() for kind in ("html", "md"))  # type: ignore[return-value]


def test_the_page_runs_nothing_loads_nothing_and_shows_hostile_answers_as_text(tmp_path: Path) -> None:
    page, text = written(report(), tmp_path)
    elements = Elements(page)
    names = {name for name, _ in elements.found}
    assert not names & {"script", "img", "link", "iframe", "object", "embed", "a", "form", "base"}
    assert not [a for _, attributes in elements.found for a in attributes if a.startswith("on") or a in ("src", "href")]
    assert "url(" not in page
    (policy,) = [one["content"] for _, one in elements.found if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert HOSTILE in elements.text
    fenced = re.search(r"^(`{4,})\n(.*?)\n\1$", text, re.DOTALL | re.MULTILINE)
    assert fenced is not None
    assert fenced[2] == HOSTILE
    assert not re.search(
        r"^# owned", re.sub(r"^(`{3,})\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )


def test_the_report_tells_question_data_arms_costs_and_lineage(jsonl: WriteJsonl, tmp_path: Path) -> None:
    data = jsonl(chat(), chat("again?"))
    advice = advise(Case(name="triage", need="do", prompt_tried=True, prompt_score=0.1))
    kept = advice.save(tmp_path / "var")
    carried = {"file": kept.name, "despite": "we are curious"}
    write_run(tmp_path / "var", data, hashlib.sha256(data.read_bytes()).hexdigest(), advice=carried)
    page, text = written(report(), tmp_path)
    for shown in (Elements(page).text, text.replace("\\", "")):
        for piece in (
            "PROMOTE",
            "NOT YET, because there is no metric",
            "for this reason: we are curious",
            "2 different rows",
            "60.0% (54.0% to 66.0%)",
            "+20.0 points (+11.0 to +29.0)",
            "no price known",
            "$0.0000012",
            "passed",
            "category=billing",
            "ab" * 32,
            "77" * 32,
            "triage-1",
        ):
            assert piece in shown, piece
        assert "has changed since" not in shown
    assert page.count("<svg") == 4
    assert "gate: at least +5 points" in page
    data.write_text(data.read_text() * 2, encoding="utf-8")
    assert "has changed since it was trained on" in written(report(), tmp_path)[0]


def test_classes_of_answers_and_the_basis_of_costs_stand_on_the_page(tmp_path: Path) -> None:
    arms = [
        arm.model_copy(
            update={
                "metrics": arm.metrics | {"f1:complaint": measure(f1)},
                "settings": {"cost_basis": {"calibrated": 200}} if arm.name == "triage" else {},
            }
        )
        for arm, f1 in zip(report().arms, (0.3, 0.2, 0.1), strict=True)
    ]
    page, text = written(report(arms=tuple(arms)), tmp_path)
    for shown in (Elements(page).text, text.replace("\\", "")):
        for piece in (
            "Classes of the answers, by F1",
            "complaint",
            "-10.0 points",
            "Costs as of 2026-11-25 (calibrated: weights that",
        ):
            assert piece in shown, piece
    assert "F1 of triage by class" in page


@pytest.mark.parametrize(
    ("changes", "words", "said"),
    [
        ({"human": PREFERS_BASE}, "DO NOT DEPLOY", "people do not: People preferred prompted on 30 of 35"),
        ({"human": PREFERS_BASE | {"arm": "other"}}, "PROMOTE", "20 points better"),
        (
            {"human": PREFERS_BASE | {"preference": {"value": 0.4, "interval_95": [0.2, 0.6], "of": 10}}},
            "PROMOTE",
            "20 points better",
        ),
        ({"gate": Gate(verdict=VerdictWord.DO_NOT_DEPLOY, summary="It lost.")}, "DO NOT DEPLOY", "It lost."),
        (
            {"gate": Gate(verdict=None, summary="3 requests failed."), "complete": False},
            "NO VERDICT",
            "3 requests failed.",
        ),
    ],
)
def test_the_big_words_are_the_verdict_unless_people_object(
    changes: dict[str, Any], words: str, said: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "c", report(**changes))
    result = run(commands.report, path, "--data-dir", tmp_path / "var", "--json")
    (one,) = json.loads(result.stdout)
    assert one["verdict"] == words
    assert said in one["why"]


def test_a_name_stands_for_its_newest_comparison_and_an_unknown_one_is_one_sentence(tmp_path: Path) -> None:
    newest = saved(tmp_path / "comparisons" / "triage-20261125T2", report(created_at="2026-11-25T17:00:00Z"))
    saved(tmp_path / "comparisons" / "triage-20261125T1", report())
    saved(
        tmp_path / "comparisons" / "triage-other-1",
        report(task=report().task.model_copy(update={"name": "triage-other"})),
    )
    result = run(commands.report, "triage", "--data-dir", tmp_path)
    assert result.exit_code == 0
    assert str(newest.parent) in result.stdout
    unknown = run(commands.report, "nothing", "--data-dir", tmp_path)
    assert unknown.exit_code == 2
    assert "run `turntable compare`" in unknown.stderr
    (tmp_path / "broken.json").write_text("{}", encoding="utf-8")
    broken = run(commands.report, tmp_path / "broken.json", "--data-dir", tmp_path)
    assert (broken.exit_code, "is no report of `turntable compare`" in broken.stderr) == (2, True)
