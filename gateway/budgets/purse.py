"""A purse: the money of one budget that this gateway holds, and what its requests have reserved and spent of it."""

from dataclasses import dataclass
from datetime import UTC

from gateway.budgets.periods import renews_at
from gateway.costs.amounts import usd_text
from gateway.keys import Period


@dataclass(frozen=True, slots=True, order=True)
class PurseKey:
    """Which budget: whose, per what, and the day since the epoch on which its period began."""

    account: str
    period: Period
    first_day: int


@dataclass(slots=True)
class Purse:
    """All amounts are nano-USD. The money held is either free, reserved by requests that run, or spent by requests
    whose rows may not be in the database yet.
    """

    key: PurseKey
    limit: int
    held: int = 0
    reserved: int = 0
    spent_here: int = 0
    until_s: float = 0.0
    """Until when the money is ours, on the clock of `Budgets`."""
    is_frozen: bool = False
    """Nothing is reserved while the database may take money back."""
    used_s: float = 0.0
    spent: int = 0
    """What the database said was spent, then."""
    refused_s: float = -1e9
    """When the database last had not enough."""

    def has(self, nano_usd: int, now_s: float) -> bool:
        """Whether so much can be reserved now."""
        return self.held - self.reserved - self.spent_here >= nano_usd and now_s < self.until_s and not self.is_frozen

    @property
    def left(self) -> int:
        """What would be left if all that runs cost nothing, as far as this gateway knows."""
        return max(0, self.limit - self.spent - self.spent_here)

    @property
    def use(self) -> float:
        """The part of it that is spent, as far as this gateway knows."""
        return 1.0 if not self.limit else (self.spent + self.spent_here) / self.limit

    def name(self) -> str:
        """The budget in words, with the moment in which it renews."""
        whose = "this key" if self.key.account.startswith("key:") else "this key's tenant"
        renewed = renews_at(self.key.period, self.key.first_day)
        when = "does not renew" if renewed is None else f"renews at {renewed.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        per = "in all" if self.key.period is Period.TOTAL else f"per {self.key.period}"
        return f"the budget of {whose} ({usd_text(self.limit)} {per}; it {when})"
