"""GET /admin/v1/usage and /admin/v1/costs: tokens and money by model."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from gateway.costs import Bill, make_bill, usage_by_model
from gateway.engine_runs import EngineRuns
from gateway.errors import InvalidRequestError
from gateway.ledger import Ledger, now_us
from gateway.prices import DEFAULT_COMPARISON, frontier_models, price_source
from gateway.usage import Usage

_COLUMNS = {"adapter", "tenant", "key", "day"}


def usage_routes(ledger: Ledger, runs: EngineRuns, *, base: str, admin: Any) -> APIRouter:
    """Routes that sum up the ledger; times are ISO 8601, all history by default."""
    routes = APIRouter(prefix="/admin/v1", tags=["usage"], dependencies=[Depends(admin)])

    @routes.get("/usage")
    def usage(group_by: str = "adapter", since: str | None = None) -> dict[str, Any]:
        """Requests and tokens, grouped by any of adapter, tenant, key, day."""
        columns = [column for column in group_by.split(",") if column]
        if unknown := set(columns) - _COLUMNS:
            raise InvalidRequestError(
                f"Cannot group by '{unknown.pop()}'; choose from {', '.join(sorted(_COLUMNS))}.", param="group_by"
            )
        groups: dict[tuple[str, ...], dict[str, int]] = {}
        for row in ledger.rows(since_us=_parse_us(since)):
            sums = groups.setdefault(tuple(_value(row, column, base) for column in columns), _zero())
            sums["requests"] += 1
            sums["unsettled"] += row["state"] != "settled"
            for kind in ("prompt_tokens", "cached_tokens", "completion_tokens"):
                sums[kind] += row[kind] or 0
        return {"object": "list", "data": [dict(zip(columns, k, strict=True)) | v for k, v in sorted(groups.items())]}

    @routes.get("/costs")
    def costs(since: str | None = None, vs: Annotated[list[str] | None, Query()] = None) -> dict[str, Any]:
        """The engine's bill by model, and what frontier APIs would have charged for the same requests."""
        since_us, until_us = _parse_us(since), now_us()
        models = frontier_models(vs or DEFAULT_COMPARISON)
        rows = ledger.rows(since_us=since_us, until_us=until_us)
        bill = make_bill(runs.list(), rows, base=base, since_us=since_us, until_us=until_us)
        usages, today = usage_by_model(rows, base), datetime.now(UTC)
        elsewhere: dict[str, dict[str, int]] = {
            line.model: {m.name: m.charge_nano_usd(usages[line.model], at=today) for m in models} for line in bill.lines
        }
        return _document(bill, elsewhere) | {"prices": {"source": price_source(), "on": today.date().isoformat()}}

    return routes


def _document(bill: Bill, elsewhere: dict[str, dict[str, int]]) -> dict[str, Any]:
    lines = [
        {"model": line.model, "requests": line.requests}
        | _tokens(line.usage)
        | {"cost_nano_usd": line.cost_nano_usd, "elsewhere_nano_usd": elsewhere[line.model]}
        for line in bill.lines
    ]
    return {
        "data": lines,
        "idle_nano_usd": bill.idle_nano_usd,
        "bill_nano_usd": bill.total_nano_usd,
        "engine_up_s": bill.up_us / 1e6,
        "engine_busy_s": bill.busy_us / 1e6,
    }


def _tokens(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def _zero() -> dict[str, int]:
    return dict.fromkeys(("requests", "unsettled", "prompt_tokens", "cached_tokens", "completion_tokens"), 0)


def _value(row: Any, column: str, base: str) -> str:
    if column == "day":
        return datetime.fromtimestamp(row["opened_us"] / 1e6, UTC).date().isoformat()
    return str(row["key_id"] if column == "key" else row[column] or base)


def _parse_us(since: str | None) -> int:
    if since is None:
        return 0
    try:
        moment = datetime.fromisoformat(since)
    except ValueError as error:
        raise InvalidRequestError(
            f"'{since}' is no time; write it like 2026-11-22T10:00:00Z.", param="since"
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e6)
