"""Budgets of two gateways on one database under everything that can happen to them, in any order."""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from gateway.auth import Account, Budget, Limits, Period
from gateway.background import Background
from gateway.database import open_database
from gateway.metering import Ledger, LedgerEntry
from gateway.quota import BudgetLeaseStore, Budgets, BudgetStatuses, Reservation
from gateway.quota.budget_leases import LEASE_US
from gateway.quota.errors import BudgetSpentError, RateLimitError

TENANT_NANO_USD, KEY_NANO_USD = 1000, 700
TENANT = Account("tenant:t", Limits(), (Budget(TENANT_NANO_USD, Period.TOTAL),))
KEYS = {
    name: Account(f"key:{name}", Limits(), (Budget(KEY_NANO_USD, Period.DAY), Budget(KEY_NANO_USD, Period.TOTAL)))
    for name in ("a", "b")
}
NOON_US = (20_000 * 86_400 + 43_200) * 10**6
LEASE_S = LEASE_US / 1e6


class Clock:
    """The one clock of the gateways and their database."""

    def __init__(self) -> None:
        self.us = NOON_US

    def us_now(self) -> int:
        return self.us

    def s_now(self) -> float:
        return self.us / 1e6


@dataclass
class Gateway:
    """One gateway: its budgets and its ledger, with what runs on it: key, reservation, row."""

    budgets: Budgets
    ledger: Ledger
    store: BudgetLeaseStore
    running: list[tuple[str, Reservation, LedgerEntry]] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """What is true is kept in `spent`: the cost of every settled row, by key."""

    def __init__(self, template: Path) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copyfile(template, self.folder / "turntable.db")
        self.database: Engine = open_database(f"sqlite:///{self.folder / 'turntable.db'}")
        self.loop = asyncio.Runner()
        self.clock = Clock()
        self.gateways: list[Gateway | None] = [self.start(0), self.start(1)]
        self.spent = {"a": 0, "b": 0}
        self.down: dict[int, tuple[int, int]] = {}
        """Gateways that were killed: when, and how much of their journal the database did not have."""
        self.forgiven = 0
        """What others may have spent again, because a killed gateway came back after its leases had ended."""
        self.number = 0

    def start(self, number: int) -> Gateway:
        ledger = Ledger(self.database, self.folder / str(number))
        store = BudgetLeaseStore(self.database, ledger.run, self.clock.us_now)
        store.release(ledger.ended_runs)
        return Gateway(Budgets(store, ledger, Background().group("budgets"), self.clock.s_now), ledger, store)

    def in_database(self) -> int:
        with self.database.connect() as connection:
            total = connection.exec_driver_sql(
                "SELECT coalesce(sum(nano_usd), 0) FROM spending WHERE account = 'tenant:t'"
            )
            return int(total.scalar_one())

    @rule(number=st.integers(0, 1), key=st.sampled_from("ab"), nano_usd=st.integers(1, 300), count=st.integers(1, 4))
    def reserve(self, number: int, key: str, nano_usd: int, count: int) -> None:
        gateway = self.gateways[number]
        if gateway is None:
            return

        async def several() -> list[Any]:
            asked = (gateway.budgets.reserve((KEYS[key], TENANT), self.clock.us, nano_usd) for _ in range(count))
            return await asyncio.gather(*asked, return_exceptions=True)

        for outcome in self.loop.run(several()):
            if isinstance(outcome, Reservation):
                self.number += 1
                row = LedgerEntry(
                    f"req_{self.number}", "t", key, "base", None, None, False, "/", opened_us=self.clock.us
                )
                row.is_charged = True
                gateway.ledger.open(row)
                gateway.running.append((key, outcome, row))
            else:
                assert isinstance(outcome, RateLimitError | BudgetSpentError), outcome

    @rule(number=st.integers(0, 1), place=st.integers(0, 20), share=st.sampled_from([0, 0.1, 0.5, 1]))
    def settle(self, number: int, place: int, share: float) -> None:
        gateway = self.gateways[number]
        if gateway is None or not gateway.running:
            return
        key, reservation, row = gateway.running.pop(place % len(gateway.running))
        row.cost_nano_usd = int(reservation.nano_usd * share)
        reservation.settle(row.cost_nano_usd)
        gateway.ledger.settle(row)
        self.spent[key] += row.cost_nano_usd

    @rule(seconds=st.sampled_from([0.2, 1, 3, 12, 50, 100]))
    def pass_time(self, seconds: float) -> None:
        """A running gateway settles at once and renews at least every half minute; a dead one does not."""
        for gateway in self.gateways:
            assert gateway is None or gateway.ledger.flush()
        while seconds > 0:
            self.clock.us += int(min(seconds, 30) * 1e6)
            seconds -= 30
            if seconds > 0:
                self.beat()

    @rule()
    def beat(self) -> None:
        for gateway in self.gateways:
            if gateway is not None:
                self.loop.run(gateway.budgets.renew(is_shared=True))

    @rule(number=st.integers(0, 1))
    def kill(self, number: int) -> None:
        gateway = self.gateways[number]
        if gateway is None:
            return
        self.gateways[number] = None
        folder = gateway.ledger._journal.folder
        gateway.ledger._fold_all = _nothing_more  # type: ignore[method-assign, assignment]
        gateway.ledger.close()
        folder.mkdir(exist_ok=True)  # a process that is killed takes nothing with it
        missing = sum(self.spent.values()) - self.in_database()
        self.down[number] = (self.clock.us, missing)

    @precondition(lambda self: self.down)
    @rule()
    def restart(self) -> None:
        number, (killed_us, missing) = self.down.popitem()
        if self.clock.us - killed_us >= LEASE_US:
            self.forgiven += missing
        self.gateways[number] = self.start(number)

    @invariant()
    def no_budget_is_overshot(self) -> None:
        late = sum(missing for at_us, missing in self.down.values() if self.clock.us - at_us >= LEASE_US)
        reserved = {key: 0 for key in KEYS}
        for gateway in self.gateways:
            for key, reservation, _ in gateway.running if gateway is not None else ():
                reserved[key] += reservation.nano_usd
        forgiven = self.forgiven + late
        assert sum(self.spent.values()) + sum(reserved.values()) <= TENANT_NANO_USD + forgiven
        for key in KEYS:
            assert self.spent[key] + reserved[key] <= KEY_NANO_USD + forgiven

    def teardown(self) -> None:
        try:
            self.all_is_accounted_for()
        finally:
            for gateway in self.gateways:
                if gateway is not None:
                    gateway.ledger.close()
            self.loop.close()
            self.database.dispose()
            shutil.rmtree(self.folder)

    def all_is_accounted_for(self) -> None:
        while self.down:
            self.restart()
        gateways = [gateway for gateway in self.gateways if gateway is not None]
        for number, gateway in enumerate(gateways):
            while gateway.running:
                self.settle(number, 0, 1)
        for gateway in gateways:
            assert gateway.ledger.flush()
        assert self.in_database() == sum(self.spent.values()), "nothing is lost, nothing is booked twice"
        # What was renewed half a lease after its last use is held for one lease more.
        for _ in range(2):
            self.pass_time(LEASE_S)
            self.beat()
        self.all_that_is_left_can_be_spent(gateways[0])

    def all_that_is_left_can_be_spent(self, gateway: Gateway) -> None:
        left = min(KEY_NANO_USD - self.spent["a"], TENANT_NANO_USD - sum(self.spent.values()))
        (_, total) = BudgetStatuses(gateway.store, gateway.budgets, gateway.ledger).of(KEYS["a"])
        assert total.spent == self.spent["a"]
        if left > 0:
            self.loop.run(gateway.budgets.reserve((KEYS["a"], TENANT), self.clock.us, left)).settle(0)
        with pytest.raises(BudgetSpentError):
            self.loop.run(gateway.budgets.reserve((KEYS["a"], TENANT), self.clock.us, max(0, left) + 1))


def _nothing_more(_segments: object) -> None:
    raise OSError("killed")


@pytest.mark.hypothesis
def test_budgets_of_two_gateways_are_never_overshot_and_lose_and_double_nothing(migrated_sqlite: Path) -> None:
    run_state_machine_as_test(
        lambda: Machine(migrated_sqlite),  # type: ignore[arg-type]
        settings=settings(
            max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
