"""Renewal of budget leases: whatever fails, no lease stays frozen."""

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.auth import Period
from gateway.background import Background
from gateway.quota.budget_leases import BudgetKey, BudgetLease
from gateway.quota.lease_renewal import LeaseRenewer


async def test_a_lease_is_not_frozen_after_a_batch_that_failed_before_it_was_asked() -> None:
    def fail() -> None:
        raise ValueError("a line that cannot be written")

    ledger: Any = SimpleNamespace(retry=fail)
    renewer = LeaseRenewer(SimpleNamespace(), ledger, Background().group("budgets"))  # type: ignore[arg-type]
    lease = BudgetLease(BudgetKey("key:k", Period.DAY, 1), limit=10)
    with pytest.raises(ValueError, match="cannot be written"):
        await renewer.shrink([lease])
    assert not lease.is_frozen
