"""The cost plan (`costs.toml`): engines, storage, adapters and idle time as the operator states them; engine prices."""

import fnmatch
import logging
import tomllib
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.clock import DAY_US, day_number
from gateway.errors import InvalidRequestError
from gateway.money import MOST_USD_PER_HOUR, nano

log = logging.getLogger(__name__)
PLAN_FILE = "costs.toml"
UNPRICED = (
    "no engine has a price per hour (--engine-usd-per-hour, or costs.toml): costs are unpriced, and keys and tenants "
    "with a budget are refused"
)
HOURS_PER_MONTH = 730
HOURS_PER_YEAR = 8_766
_PRESETS = Path(__file__).with_name("hardware.toml")
Usd = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
UsdPerHour = Annotated[Usd, Field(le=MOST_USD_PER_HOUR)]
Level = Literal["low", "typical", "high"]


class PlanError(InvalidRequestError):
    """A mistake in the cost plan; the message names entry and field."""


class IdlePolicy(StrEnum):
    """Who carries the cost of idle engine time: a line of its own, users by their share, or adapters evenly."""

    OWN_LINE = "own_line"
    PROPORTIONAL = "proportional"
    EVEN = "even"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Preset(_Entry):
    """USD per hour of one accelerator: a range, because offers differ by factors."""

    label: str
    low: Usd
    typical: Usd
    high: Usd
    checked_on: date
    source: str
    kw: Decimal | None = None


class Owned(_Entry):
    """Purchased hardware: its price is spread over all hours of its years."""

    purchase_usd: Usd
    years: Decimal = Field(gt=0)
    usd_per_year: Usd = Decimal(0)
    """Space, network, people, insurance."""

    @property
    def usd_per_hour(self) -> Decimal:
        """Depreciation and running costs per hour."""
        return (self.purchase_usd / self.years + self.usd_per_year) / HOURS_PER_YEAR


class EnginePlan(_Entry):
    """One `[[engine]]`: hardware and price of engines whose name matches; the first match counts."""

    name: str = "*"
    hardware: str | None = None
    level: Level = "typical"
    count: int = Field(1, ge=1)
    usd_per_hour: UsdPerHour | None = None
    owned: Owned | None = None
    kw: Decimal | None = Field(None, ge=0)
    usd_per_kwh: Usd = Decimal(0)
    g_co2_per_kwh: Decimal | None = Field(None, ge=0)
    since: date | None = None

    @model_validator(mode="after")
    def _has_one_price(self) -> Self:
        given = [self.usd_per_hour is not None, self.owned is not None, self.hardware is not None]
        if not any(given):
            raise ValueError("it has no price; give hardware, usd_per_hour or owned")
        if self.usd_per_hour is not None and self.owned is not None:
            raise ValueError("it has two prices; give usd_per_hour or owned")
        return self


class StoragePlan(_Entry):
    """One `[[storage]]`: a fixed cost per month."""

    name: str
    usd_per_month: Usd


class AdapterPlan(_Entry):
    """One `[[adapter]]`: the cost of training it, spread over its life."""

    name: str
    training_usd: Usd = Decimal(0)
    data_usd: Usd = Decimal(0)
    people_usd: Usd = Decimal(0)
    trained_on: date
    life_days: int = Field(180, ge=1)

    @property
    def investment_usd(self) -> Decimal:
        """Cost of training, data and people."""
        return self.training_usd + self.data_usd + self.people_usd

    def share_nano_usd(self, since_us: int, until_us: int) -> int:
        """Return the part of the investment that falls into a window."""
        begin = day_number(self.trained_on) * DAY_US
        end = begin + self.life_days * DAY_US
        inside = max(0, min(until_us, end) - max(since_us, begin))
        return nano(self.investment_usd) * inside // (end - begin)


class CostPlan(_Entry):
    """The whole file; without it, engines cost the setting `engine_usd_per_hour`."""

    idle: IdlePolicy = IdlePolicy.OWN_LINE
    peak_to_mean: Decimal = Field(Decimal(1), ge=1)
    min_replicas: int = Field(1, ge=1)
    engine: tuple[EnginePlan, ...] = ()
    storage: tuple[StoragePlan, ...] = ()
    adapter: tuple[AdapterPlan, ...] = ()

    def engine_plan(self, name: str) -> EnginePlan | None:
        """Return the first entry whose name matches an engine."""
        return next((plan for plan in self.engine if fnmatch.fnmatchcase(name, plan.name)), None)

    def nano_usd_per_hour(self, name: str, presets: Mapping[str, Preset]) -> int | None:
        """Return the cost of an engine's hour, power included; None when the plan does not name it."""
        plan = self.engine_plan(name)
        if plan is None:
            return None
        if plan.owned is not None:
            usd = plan.owned.usd_per_hour
        elif plan.usd_per_hour is not None:
            usd = plan.usd_per_hour
        else:
            usd = getattr(_preset(plan, presets), plan.level)
        return nano(plan.count * (usd + (kw_per_card(plan, presets) or 0) * plan.usd_per_kwh))


def kw_per_card(plan: EnginePlan, presets: Mapping[str, Preset]) -> Decimal | None:
    """Return the power of one accelerator in kW, by the plan or by its preset; None when neither states it."""
    if plan.kw is not None:
        return plan.kw
    preset = presets.get(plan.hardware or "")
    return preset.kw if preset else None


def read_presets() -> dict[str, Preset]:
    """Read the hardware presets that come with this version."""
    document = tomllib.loads(_PRESETS.read_text(encoding="utf-8"), parse_float=Decimal)
    return {name: Preset.model_validate(raw) for name, raw in document.items()}


def read_plan(data_dir: Path) -> CostPlan:
    """Read the cost plan of a data directory; raises `PlanError` for a mistake in it."""
    path = data_dir / PLAN_FILE
    if not path.exists():
        return CostPlan()
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
        plan = CostPlan.model_validate(document)
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{PLAN_FILE} cannot be read ({error}).") from error
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{PLAN_FILE} is not valid TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part + 1 if isinstance(part, int) else part) for part in first["loc"])
        raise PlanError(f"{PLAN_FILE}, '{place}': {first['msg'].removeprefix('Value error, ')}.") from error
    presets = read_presets()
    for engine in plan.engine:
        if engine.usd_per_hour is None and engine.owned is None:
            _preset(engine, presets)
    return plan


def _preset(plan: EnginePlan, presets: Mapping[str, Preset]) -> Preset:
    found = presets.get(plan.hardware or "")
    if found is None:
        raise PlanError(
            f"{PLAN_FILE}: no hardware is called '{plan.hardware}'; use {', '.join(presets)}, or give usd_per_hour."
        )
    return found


class EnginePrices:
    """Present price of each engine; a plan with a mistake is logged once, and the last good one stays in force."""

    def __init__(self, data_dir: Path, usd_per_hour: Decimal | None) -> None:
        self._data_dir = data_dir
        self._default = None if usd_per_hour is None else nano(usd_per_hour)
        self._stamp: float | None = None
        self._plan = CostPlan()
        self._presets: dict[str, Preset] = {}

    def nano_usd_per_hour(self, engine: str) -> int | None:
        """Return the price of an engine's hour by the plan, else by the setting; None when neither states it."""
        self._read()
        planned = self._plan.nano_usd_per_hour(engine, self._presets)
        return self._default if planned is None else planned

    def highest(self, engines: Iterable[str]) -> int | None:
        """Return the highest price per hour of these engines; None when none has one."""
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
            log.error("%s The previous prices stay in force.", error)
