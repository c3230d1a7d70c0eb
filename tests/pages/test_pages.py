"""Every page in a real browser, on a desk and on a phone, light and dark: nothing is cut off, covered or faint."""

import runpy
from pathlib import Path

import pytest

from tests.browser import Page
from tests.conftest import ROOT
from tests.pages.documents import PAGES, decision
from tests.trainer.human_eval.contests import compared
from tests.trainer.report.comparisons import HOSTILE
from trainer.eval.task import read_task
from trainer.human_eval.pairs import read_pairwise_eval
from trainer.human_eval.ratings import RatingStore
from trainer.human_eval.server import Session, serving

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
CHARTS = """[...document.querySelectorAll('svg')].map(svg => {
  const {width, height} = svg.getBoundingClientRect();
  return width > 200 && height > 50 && svg.getBBox().width > 100; })"""
CUT = """[...document.querySelectorAll('.wide, p, dt, dd, h1, h2, h3, summary, figcaption, pre')]
  .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent.slice(0, 80))"""
OUTSIDE = """[...document.querySelectorAll('svg text')].filter(text => {
  const [inner, outer] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
  return inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.bottom > outer.bottom + 2;
}).map(text => text.textContent)"""
OVERLAPPING = """[...document.querySelectorAll('svg')].flatMap(svg => {
  const texts = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  return texts.flatMap(([one, a], place) => texts.slice(place + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > a.height / 4).map(([two]) => `${one} | ${two}`)); })"""
FAINT = """(() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => channels(colour).slice(0, 3).map(value => value / 255)
    .map(value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
    .reduce((sum, value, place) => sum + value * [.2126, .7152, .0722][place], 0);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor, alpha = channels(colour)[3] ?? 1;
      if (alpha === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const written = one => [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  const shown = one => one.getClientRects().length && !['STYLE', 'SCRIPT', 'title', 'desc'].includes(one.tagName);
  return [...document.body.querySelectorAll('*')].filter(one => written(one) && shown(one)).map(one => {
    const style = getComputedStyle(one);
    const [a, b] = [light(one.tagName === 'text' ? style.fill : style.color), light(behind(one))];
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), one.textContent.slice(0, 60)];
  }).filter(([ratio]) => ratio < 4.5); })()"""


def inspect(page: Page, url: str, width: int) -> None:
    """Open a page in both colour schemes and find what is wrong with it."""
    page.resize(width, 900)
    for scheme in SCHEMES:
        page.prefer(scheme)
        page.open(url)
        assert page.evaluate("innerWidth") == width
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for wrong in (CUT, OUTSIDE, OVERLAPPING, FAINT):
            assert page.evaluate(wrong) == [], scheme
    assert page.errors == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_everything_and_asks_for_nothing(name: str, width: int, page: Page, tmp_path: Path) -> None:
    make, charts = PAGES[name]
    file = tmp_path / "page.html"
    file.write_text(make(tmp_path), encoding="utf-8")
    inspect(page, file.as_uri(), width)
    assert page.evaluate(CHARTS) == [True] * charts
    assert page.requests == [file.as_uri()] * len(SCHEMES)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_review_page_shows_everything_and_talks_to_its_server_only(width: int, page: Page, tmp_path: Path) -> None:
    task_file, path = compared(tmp_path)
    contest = read_pairwise_eval(read_task(task_file), path, arm=None, against=None, seed=0)
    with RatingStore(contest) as ratings, serving(Session(contest, ratings, show_expected=True)) as url:
        inspect(page, url, width)
        page.type("ana")
        page.evaluate("document.querySelector('#who button').click()")
        page.wait_for("!document.getElementById('item').hidden && !document.getElementById('left').disabled")
        for wrong in (CUT, FAINT):
            assert page.evaluate(wrong) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.errors == []
        assert all(request.startswith(url.partition("?")[0]) for request in page.requests)


def test_the_pictures_of_the_readme_are_of_documents_that_are_still_understood() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "build_images.py"))["pages"]
    for name, text in pages().items():
        assert (ROOT / "docs" / "images" / f"{name}.png").stat().st_size < 200_000
        assert text.count("<svg") >= 2


def test_the_checks_find_what_is_wrong(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(
        '<body style="background:#fff"><p style="color:#bbb">faint</p><p style="width:3em;white-space:nowrap">much too '
        'long</p><svg viewBox="0 0 100 40"><text x="10" y="20">one</text><text x="12" y="20">two</text>'
        '<text x="95" y="20">outside</text></svg></body>',
        encoding="utf-8",
    )
    page.open(file.as_uri())
    assert [text for _, text in page.evaluate(FAINT)] == ["faint"]
    assert page.evaluate(CUT) == ["much too long"]
    assert page.evaluate(OUTSIDE) == ["outside"]
    assert page.evaluate(OVERLAPPING) == ["one | two"]


def test_hostile_answers_run_nothing_in_the_report(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(decision(tmp_path), encoding="utf-8")
    page.open(file.as_uri())
    assert page.evaluate("document.querySelector('.example pre').textContent") == HOSTILE
    assert page.evaluate("document.querySelectorAll('script, img').length") == 0
    injected = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    assert page.evaluate(f"{injected}; window.ran") is None, "the page's policy stops what gets past the escaping"
