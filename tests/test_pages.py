"""Every page that Turntable makes, in a real browser: nothing goes wrong, nothing is loaded, everything is seen."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

import trainer.cli as commands
from gateway.costs.evidence import EvidenceKind
from gateway.costs.html import html_page as costs_page
from gateway.costs.report import CostQuery
from gateway.database import open_database
from loadtest.page import html_page as loadtest_page
from tests.browser import Page, new_page, running_browser
from tests.gateway.costs.ledger_rows import row, write_rows
from tests.gateway.costs.test_document import CAPACITY, NOW, SINCE, office_of, run_of
from tests.loadtest.test_outputs import report as load_report
from tests.loadtest.test_outputs import study
from tests.trainer.cli.test_commands import run
from tests.trainer.human_eval.contests import ITEMS, SYSTEM, compared
from tests.trainer.report.comparisons import HOSTILE, report, saved
from trainer.eval.task import read_task
from trainer.human_eval.pairs import read_pairwise_eval
from trainer.human_eval.ratings import Ratings
from trainer.human_eval.server import Session, serving

CHARTS = """[...document.querySelectorAll('svg')].map(svg => {
  const {width, height} = svg.getBoundingClientRect();
  return width > 200 && height > 50 && svg.getBBox().width > 100; })"""


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with running_browser() as url:
        yield url


@pytest.fixture
def page(browser: str) -> Iterator[Page]:
    with new_page(browser) as tab:
        yield tab


def costs(folder: Path) -> str:
    database = open_database(f"sqlite:///{folder / 'turntable.db'}")
    run_of(database, SINCE, NOW, Decimal("2.69"))
    write_rows(database, [row(n, SINCE + n * 20_000_000, prompt_tokens=1024, completion_tokens=128) for n in range(50)])
    office = office_of(database, folder)
    office.store.add(EvidenceKind.CAPACITY, CAPACITY)
    text = costs_page(office.document(CostQuery(SINCE, NOW)))
    database.dispose()
    return text


def decision(folder: Path) -> str:
    path = saved(folder / "c", report())
    assert run(commands.report, path, "--data-dir", folder / "var").exit_code == 0
    return path.with_name("c-decision.html").read_text()


@pytest.mark.parametrize(
    ("make", "charts"),
    [
        (costs, 3),
        (decision, 3),
        (lambda folder: loadtest_page(load_report().as_json()), 2),
        (lambda folder: loadtest_page(study().as_json()), 4),
    ],
    ids=["costs", "decision", "loadtest-run", "loadtest-sweep"],
)
def test_a_page_shows_its_charts_and_asks_for_nothing(make: object, charts: int, page: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(make(tmp_path), encoding="utf-8")  # type: ignore[operator]
    page.open(file.as_uri())
    assert page.evaluate(CHARTS) == [True] * charts
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wide tables scroll by themselves"
    assert page.errors == []
    assert page.requests == [file.as_uri()]


def test_hostile_answers_run_nothing_in_the_report(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(decision(tmp_path), encoding="utf-8")
    page.open(file.as_uri())
    assert page.evaluate("document.querySelector('.sides pre').textContent") == HOSTILE
    assert page.evaluate("document.querySelectorAll('script, img').length") == 0
    injected = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    assert page.evaluate(f"{injected}; window.ran") is None, "the page's policy stops what gets past the escaping"


def test_a_rater_rates_by_keyboard_undoes_comes_back_and_finishes(page: Page, tmp_path: Path) -> None:
    task_file, path = compared(tmp_path)
    contest = read_pairwise_eval(read_task(task_file), path, arm=None, against=None, seed=0)
    with Ratings(contest) as ratings, serving(Session(contest, ratings, show_expected=True)) as url:
        begin(page, url)
        assert SYSTEM in page.evaluate("document.getElementById('messages').textContent")
        assert "expected" in page.evaluate("document.getElementById('expected').textContent")
        keys = {"left": ("1", "ArrowLeft"), "right": ("2", "ArrowRight"), "tie": ("0", "ArrowDown")}
        chosen = ["left", "right", "tie", "tie", "right", "left"]
        for done, choice in enumerate(chosen, start=1):
            page.press(keys[choice][done % 2])
            page.wait_for(f"{shown()}.startsWith('{done} of {ITEMS - 1}')")
        page.press("u")
        page.wait_for(f"{shown()}.startsWith('5 of')")
        begin(page, url)
        assert page.evaluate(shown()) == f"5 of {ITEMS - 1} rated"
        for done in range(6, ITEMS):
            page.evaluate("document.getElementById('left').click()")
            page.wait_for(f"{shown()}.startsWith('{done} of')")
        page.wait_for("!document.getElementById('finished').hidden && document.getElementById('item').hidden")
        given = ratings.of("ana maria")
        assert page.evaluate("document.querySelectorAll('script, img').length") == 1, "answers are text"
    expected = [*chosen[:5], *["left"] * (ITEMS - 6)]
    turned = {"left": ("arm", "against"), "right": ("against", "arm"), "tie": ("tie", "tie")}
    order = contest.order("ana maria")
    assert given == {
        line: turned[choice][contest.is_swapped("ana maria", line)]
        for line, choice in zip(order, expected, strict=True)
    }
    assert page.errors == []
    assert {request.partition("?")[0].rpartition("/")[2] for request in page.requests} == {"", "next", "rate", "undo"}


def test_a_server_that_is_gone_is_said_on_the_page(page: Page, tmp_path: Path) -> None:
    task_file, path = compared(tmp_path)
    contest = read_pairwise_eval(read_task(task_file), path, arm=None, against=None, seed=0)
    with Ratings(contest) as ratings, serving(Session(contest, ratings, show_expected=False)) as url:
        begin(page, url)
    page.press("1")
    page.wait_for("!document.getElementById('error').hidden")
    assert "Nothing that was rated is lost" in page.evaluate("document.getElementById('error').textContent")


def begin(page: Page, url: str) -> None:
    page.open(url)
    page.type("ana maria")
    page.evaluate("document.querySelector('#who button').click()")
    page.wait_for("!document.getElementById('item').hidden")


def shown() -> str:
    return "document.getElementById('progress-text').textContent"
