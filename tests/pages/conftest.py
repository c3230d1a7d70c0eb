"""A real browser for the tests of pages: started once a file, a new tab for every test."""

from collections.abc import Iterator

import pytest

from tests.browser import Page, new_page, running_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[str]:
    with running_browser() as url:
        yield url


@pytest.fixture
def page(browser: str) -> Iterator[Page]:
    with new_page(browser) as tab:
        yield tab
