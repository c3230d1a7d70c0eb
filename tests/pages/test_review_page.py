"""The review page in a real browser: keyboard and mouse, undo, a second visit, a lost server."""

from pathlib import Path

from tests.browser import Page
from tests.trainer.human_eval.contests import ITEMS, SYSTEM, compared
from trainer.eval.task import read_task
from trainer.human_eval.pairs import read_pairwise_eval
from trainer.human_eval.ratings import RatingStore
from trainer.human_eval.server import Session, serving


def test_a_rater_rates_by_keyboard_undoes_comes_back_and_finishes(page: Page, tmp_path: Path) -> None:
    task_file, path = compared(tmp_path)
    contest = read_pairwise_eval(read_task(task_file), path, arm=None, against=None, seed=0)
    with RatingStore(contest) as ratings, serving(Session(contest, ratings, show_expected=True)) as url:
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
    with RatingStore(contest) as ratings, serving(Session(contest, ratings, show_expected=False)) as url:
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
