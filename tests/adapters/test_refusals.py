"""The page of refusals says what preflight says."""

from tests.adapters.refusals import PAGE, page


def test_the_page_of_refusals_is_what_preflight_says() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(), "run `python -m tests.adapters.refusals` and commit docs/reference/preflight.md"
