"""Microseconds for limits and budgets of one request: `python -m tests.gateway.quota.bench_reserve` prints them.

Every request is another one of 10,000 keys, each with all limits and three budgets of its own, under one of a hundred
tenants that have as many. First all of it, then the budgets alone.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from gateway.auth import Account, Budget, Limits, Period
from gateway.background import Background
from gateway.clock import now_us
from gateway.database import open_database
from gateway.metering import Ledger
from gateway.quota import BudgetLeaseStore, Budgets, RateLimiter

_KEYS, _TENANTS, _ROUNDS = 10_000, 100, 9
_LIMITS = Limits(10**6, 10**9, 10**6, 10**6)
_BUDGETS = tuple(Budget(10**15, period) for period in Period)


async def measure(folder: Path) -> tuple[float, float]:
    """Medians over rounds, of everything and of the budgets alone."""
    database = open_database(f"sqlite:///{folder / 'turntable.db'}")
    ledger = Ledger(database, folder / "ledger")
    budgets, limiter = (
        Budgets(BudgetLeaseStore(database, ledger.run), ledger, Background().group("budgets")),
        RateLimiter(),
    )
    tenants = [Account(f"tenant:{number}", _LIMITS, _BUDGETS) for number in range(_TENANTS)]
    callers = [(Account(f"key:{number}", _LIMITS, _BUDGETS), tenants[number % _TENANTS]) for number in range(_KEYS)]
    await _timed(budgets, None, callers)  # which takes money from the database
    rounds: list[tuple[float, float]] = []
    for _ in range(_ROUNDS):
        whole = await _timed(budgets, limiter, callers)
        rounds.append((whole, await _timed(budgets, None, callers)))
    ledger.close()
    database.dispose()
    return median(one for one, _ in rounds), median(one for _, one in rounds)


async def _timed(budgets: Budgets, limiter: RateLimiter | None, callers: Sequence[tuple[Account, Account]]) -> float:
    began_s = time.process_time()
    for caller in callers:
        take = limiter.take(caller, 100) if limiter is not None else None
        await _of_budgets(budgets, caller)
        if take is not None:
            take.end(90)
    return 1e6 * (time.process_time() - began_s) / len(callers)


async def _of_budgets(budgets: Budgets, caller: tuple[Account, Account]) -> None:
    (await budgets.reserve(caller, now_us(), 1000)).settle(0)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        whole, alone = asyncio.run(measure(Path(folder)))
    print(f"{whole:.1f} us for limits and budgets of key and tenant, {alone:.1f} us of it for the budgets")


if __name__ == "__main__":
    main()
