"""Engine prices: what an hour of an engine costs now, by the cost plan, else by the setting."""

import logging
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from gateway.costs.amounts import nano
from gateway.costs.plan import PLAN_FILE, CostPlan, PlanError, Preset, read_plan, read_presets

log = logging.getLogger(__name__)
UNPRICED = (
    "no engine has a price per hour (--engine-usd-per-hour, or costs.toml): costs are unpriced, and keys and tenants "
    "with a budget are refused"
)


class EnginePrices:
    """The price of each engine; a plan with a mistake leaves the last good one in force and is logged once."""

    def __init__(self, data_dir: Path, usd_per_hour: Decimal | None) -> None:
        self._data_dir = data_dir
        self._default = None if usd_per_hour is None else nano(usd_per_hour)
        self._stamp: float | None = None
        self._plan = CostPlan()
        self._presets: dict[str, Preset] = {}

    def nano_usd_per_hour(self, engine: str) -> int | None:
        """What an hour of this engine costs; None when nobody stated it."""
        self._read()
        planned = self._plan.nano_usd_per_hour(engine, self._presets)
        return self._default if planned is None else planned

    def highest(self, engines: Iterable[str]) -> int | None:
        """The highest price of an hour of these engines; None when none has any."""
        prices = (self.nano_usd_per_hour(engine) for engine in engines)
        return max((price for price in prices if price is not None), default=None)

    def _read(self) -> None:
        path = self._data_dir / PLAN_FILE
        stamp = path.stat().st_mtime if path.exists() else 0.0
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._plan, self._presets = read_plan(self._data_dir), read_presets()
        except PlanError as error:
            log.error("%s The prices from before stay in force.", error)
