"""Cost reports: make the cost document of a query for every output alike; a tenant gets its own lines only."""

from dataclasses import replace
from pathlib import Path

from gateway.clock import DAY_US, iso
from gateway.costs import sections
from gateway.costs.context import CostContext, build_context
from gateway.costs.document import CostDocument, WindowPart
from gateway.costs.evidence import CostEvidenceStore
from gateway.costs.inputs import CostInputReader, CostQuery
from gateway.errors import InvalidRequestError
from gateway.metering.engine_uptime import EngineRuns
from gateway.metering.usage_summary import UsageSummary


class CostReports:
    """Makes cost documents from one database and one data directory; methods block."""

    def __init__(
        self, summary: UsageSummary, runs: EngineRuns, store: CostEvidenceStore, data_dir: Path, *, base: str
    ) -> None:
        self.store = store
        self._runs = runs
        self._reader = CostInputReader(summary, runs, store, data_dir, base=base)

    def document(self, query: CostQuery) -> CostDocument:
        """Return the cost document of a query."""
        return cost_document(build_context(self._reader.read(query)))

    def tenant_document(self, query: CostQuery, tenant: str) -> CostDocument:
        """Return what one tenant may see; raises `InvalidRequestError` for a parameter that takes an admin key."""
        return only_tenant(self.document(tenant_query(query)), tenant)

    def unpriced_until_us(self) -> int:
        """Return when an engine without a stated price was last up; 0 when none ever was."""
        return max((run.seen_us for run in self._runs.list() if run.nano_usd_per_hour is None), default=0)


def cost_document(context: CostContext) -> CostDocument:
    """Render the cost context as a document."""
    inputs, bill = context.inputs, context.bill
    levels = list(sections.levels(context))
    return CostDocument(
        window=WindowPart(since=iso(inputs.since_us), until=iso(inputs.until_us), days=float(inputs.days)),
        group_by=list(inputs.query.group_by),
        idle_policy=inputs.idle_policy,
        weights=sections.weights_basis(inputs),
        data=sections.lines(context),
        overhead=sections.overhead(context),
        idle_nano_usd=sum(bill.idle.values()) if bill.is_priced else None,
        bill_nano_usd=bill.total,
        booked_nano_usd=inputs.booked_nano_usd,
        engine_up_s=context.up_us / 1e6,
        engine_busy_s=sum(bill.busy_us.values()) / 1e6,
        engines=sections.engines(context),
        levels=levels,
        capacity=inputs.capacity_basis,
        comparators=sections.comparators(context),
        payback=sections.paybacks(context),
        quality=sections.quality(context),
        prices=sections.prices(inputs),
        chars_per_token=None if inputs.chars_per_token is None else float(inputs.chars_per_token),
        notes=[*context.notes, *sections.capacity_notes(levels)],
    )


def tenant_query(query: CostQuery) -> CostQuery:
    """Restrict a query to what a tenant may ask: whole days, grouped by tenant among others.

    Raises `InvalidRequestError` for parameters that would reveal how busy the engines are, and with whose work.
    """
    for name, given in (("idle", query.idle), ("usd_per_hour", query.usd_per_hour)):
        if given is not None:
            raise InvalidRequestError(f"'{name}' takes an admin key; leave it out.", param=name)
    if "engine" in query.group_by:
        raise InvalidRequestError("Grouping by engine takes an admin key; leave it out.", param="group_by")
    until = query.until_us
    return replace(
        query,
        since_us=query.since_us // DAY_US * DAY_US,
        until_us=None if until is None else -(-until // DAY_US) * DAY_US,
        group_by=tuple(dict.fromkeys(("tenant", *query.group_by))),
    )


def only_tenant(document: CostDocument, tenant: str) -> CostDocument:
    """Keep the lines of one tenant of a document that is grouped by tenant; its bill becomes their sum.

    The idle part of a line is left out, because it would reveal how busy the engines were.
    """
    lines = [line for line in document.data if line.tenant == tenant]
    costs = [line.cost_nano_usd for line in lines]
    return document.model_copy(
        update={
            "data": [line.model_copy(update={"active_nano_usd": None, "idle_share_nano_usd": None}) for line in lines],
            "bill_nano_usd": None if None in costs else sum(cost for cost in costs if cost is not None),
            "idle_nano_usd": None,
            "booked_nano_usd": None,
            "engine_up_s": 0.0,
            "engine_busy_s": 0.0,
            "capacity": "",
            "notes": [f"Only what the tenant '{tenant}' caused; the whole bill takes an admin key."],
            **{part: [] for part in ("overhead", "engines", "levels", "comparators", "payback", "quality")},
        }
    )
