"""The page of a load test in a real browser, on a desk and on a phone: nothing is cut off."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.page import html_page
from loadtest.study import Level, Study
from tests.browser import Page, new_page, running_browser
from tests.loadtest.test_outputs import SETTINGS, report

LONG = "legal-summaries-of-a-department-with-a-very-long-name@v12"
CUT = """[...document.querySelectorAll('.wide, p, dd, h2')].filter(one => one.scrollWidth > one.clientWidth + 1)
  .map(one => one.textContent.slice(0, 80))"""
OUTSIDE = """[...document.querySelectorAll('svg text')].filter(text => {
  const [inner, outer] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
  return inner.left < outer.left - 1 || inner.right > outer.right + 1; }).map(text => text.textContent)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with running_browser() as url:
        yield url


@pytest.fixture
def page(browser: str) -> Iterator[Page]:
    with new_page(browser) as tab:
        yield tab


def run() -> str:
    return html_page(report(settings=replace(SETTINGS, models=("base", LONG))).as_json())


def sweep() -> str:
    levels = [Level(f"{rate} req/s", rate, [report(ttft_ms=rate), report(ttft_ms=rate)]) for rate in range(10, 130, 10)]
    return html_page(Study("sweep", levels, "Done.").as_json())


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("make", [run, sweep])
def test_nothing_is_cut_off(make: Callable[[], str], width: int, page: Page, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(make(), encoding="utf-8")
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    page.open(file.as_uri())
    assert page.evaluate("innerWidth") == width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == []
    assert page.evaluate(OUTSIDE) == []
    assert page.errors == []
