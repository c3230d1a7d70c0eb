"""Costs API: GET /admin/v1/costs, the cost report of a window; GET and POST /admin/v1/costs/evidence, measurements."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import RootModel

from gateway.admin_api.adapter_documents import body_of, read_body
from gateway.auth import Caller
from gateway.clock import parse_us
from gateway.costs.evidence import EvidenceKind, validate_fact
from gateway.costs.inputs import CostQuery
from gateway.costs.plan import IdlePolicy
from gateway.costs.refresh import CostRefresher
from gateway.costs.report import CostReports
from gateway.errors import InvalidRequestError
from gateway.money import MOST_USD_PER_HOUR
from gateway.threads import REPORTS


class Measurement(RootModel[dict[str, Any]]):
    """JSON body of a measurement, as its kind has it."""


def cost_routes(reports: CostReports, refresher: CostRefresher, *, usage: Any, admin: Any) -> APIRouter:
    """Routes about money; times are ISO 8601, all history by default. Each guard demands the scope of its name."""
    routes = APIRouter(prefix="/admin/v1/costs", tags=["costs"])

    @routes.get("")
    async def costs(
        caller: Annotated[Caller, Depends(usage)],
        since: str | None = None,
        until: str | None = None,
        group_by: str = "adapter",
        vs: Annotated[list[str] | None, Query()] = None,
        idle: str | None = None,
        usd_per_hour: str | None = None,
    ) -> dict[str, Any]:
        """Get the cost report of a window: the bill by adapter, tenant and key, comparators, and break-even.

        `vs` names comparators as provider:model; `idle` is own_line, proportional or even; `usd_per_hour` replaces the
        price of every engine. A key without the admin scope gets only the lines of its tenant, for whole days (UTC),
        and may not set `idle` or `usd_per_hour`.
        """
        columns = tuple(column for column in group_by.split(",") if column)
        query = CostQuery(
            since_us=parse_us(since, "since") or 0,
            until_us=parse_us(until, "until"),
            group_by=columns,
            vs=None if vs is None else tuple(vs),
            idle=_policy(idle),
            usd_per_hour=_usd(usd_per_hour),
        )
        if caller.is_admin:
            return (await REPORTS.run(reports.document, query)).model_dump(mode="json")
        return (await REPORTS.run(reports.tenant_document, query, caller.tenant)).model_dump(mode="json")

    _add_evidence(routes, reports, refresher, admin)
    return routes


def _add_evidence(routes: APIRouter, reports: CostReports, refresher: CostRefresher, admin: Any) -> None:
    @routes.get("/price", dependencies=[Depends(admin)])
    async def price() -> dict[str, Any]:
        """Get the token price that requests are charged now; `basis` is `unpriced` without a price per engine hour."""
        return {"version": refresher.price().version, **refresher.price().document()}

    @routes.get("/evidence", dependencies=[Depends(admin)])
    def evidence() -> dict[str, Any]:
        """Get the newest measurement of each kind."""
        newest = {kind: reports.store.newest(kind) for kind in EvidenceKind}
        return {kind: {"made_on": found.made_on, **found.document} for kind, found in newest.items() if found}

    @routes.post(
        "/evidence/{kind}",
        status_code=201,
        dependencies=[Depends(admin)],
        openapi_extra=body_of(Measurement),
    )
    async def record(kind: EvidenceKind, request: Request) -> dict[str, Any]:
        """Keep a measurement: weights, capacity or quality. From now on it is the one that counts."""
        fact = validate_fact(kind, read_body(Measurement, await request.body()).root)
        await REPORTS.run(reports.store.add, kind, fact)
        await REPORTS.run(refresher.refresh)
        return {"kind": kind, **fact}


def _policy(text: str | None) -> IdlePolicy | None:
    if text is None:
        return None
    try:
        return IdlePolicy(text)
    except ValueError as error:
        raise InvalidRequestError(
            f"There is no idle policy '{text}'; use {', '.join(IdlePolicy)}.", param="idle"
        ) from error


def _usd(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise InvalidRequestError(f"'{text}' is no price per hour; write it like 2.69.", param="usd_per_hour")
    if amount > MOST_USD_PER_HOUR:
        raise InvalidRequestError(
            f"'{text}' is more than ${MOST_USD_PER_HOUR:,} per hour; give the price of one engine's hour.",
            param="usd_per_hour",
        )
    return amount
