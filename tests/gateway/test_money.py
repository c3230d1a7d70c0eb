"""Texts of amounts, for people and for programs. The division of an amount is tested with the bill."""

from decimal import Decimal

import pytest

from gateway.money import NANO, nano, usd, usd_exact, usd_plain, usd_text


@pytest.mark.parametrize(
    ("nano_usd", "for_people", "exact", "plain"),
    [
        (25 * NANO, "$25.00", "25.000000000", "25"),
        (NANO // 2, "$0.500000", "0.500000000", "0.5"),
        (1, "$0.000000", "0.000000001", "0.000000001"),
        (1_184_687_654_321, "$1,184.69", "1184.687654321", "1184.687654321"),
        (100 * NANO, "$100.00", "100.000000000", "100"),
        (-NANO, "-$1.00", "-1.000000000", "-1"),
        (0, "$0.000000", "0.000000000", "0"),
    ],
)
def test_texts_of_an_amount(nano_usd: int, for_people: str, exact: str, plain: str) -> None:
    assert (usd_text(nano_usd), usd_exact(nano_usd), usd_plain(nano_usd)) == (for_people, exact, plain)
    assert nano(usd(nano_usd)) == nano(Decimal(plain)) == nano_usd


def test_an_unknown_amount_is_unpriced_and_never_zero() -> None:
    assert usd_text(None) == "unpriced"
