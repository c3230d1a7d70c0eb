"""/admin/v1/requests: what became of a request, by its id, and lists of requests by how they ended.

/admin/v1/usage: requests and tokens from the ledger, its rows, their retention, and the engines' own counters.
"""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel as Schema
from pydantic import ConfigDict

from gateway.admin_api.adapter_documents import body_of, read_body
from gateway.auth import Caller
from gateway.clock import DAY_US, iso_date, now_us, parse_us
from gateway.errors import InvalidRequestError, NotFoundError
from gateway.metering.export import CONTENT_TYPES, encode_pages
from gateway.metering.reconcile.verdict import reconciliation_document
from gateway.metering.request_history import RequestFilter, RequestHistory
from gateway.metering.service import Metering
from gateway.metering.usage_queries import COUNTS, UsageSums
from gateway.threads import REPORTS


def request_routes(history: RequestHistory, admin: Any) -> APIRouter:
    """The routes; `admin` demands an admin key."""
    routes = APIRouter(prefix="/admin/v1/requests", tags=["requests"], dependencies=[Depends(admin)])

    @routes.get("")
    async def listed(
        status: str | None = None,
        key: str | None = None,
        tenant: str | None = None,
        model: str | None = None,
        since: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 50,
    ) -> dict[str, Any]:
        """List requests, newest first, since `since` or of the last 24 hours; `status` is like 429 or 4xx."""
        for name, value in (("key", key), ("tenant", tenant), ("model", model)):
            if value is not None and not value.isprintable():
                raise InvalidRequestError(f"'{name}' has characters that are not printable.", param=name)
        since_us = parse_us(since, "since")
        least, most = _statuses(status)
        wanted = RequestFilter(now_us() - DAY_US if since_us is None else since_us, least, most, key, tenant, model)
        return {"object": "list", "data": await REPORTS.run(history.newest, wanted, limit)}

    @routes.get("/{request_id:path}")
    async def shown(request_id: str) -> dict[str, Any]:
        """Find requests by id: the gateway's own, or a client's, which several requests may share."""
        if request_id.isprintable() and (found := await REPORTS.run(history.find, request_id)):
            return {"object": "list", "data": found}
        raise NotFoundError(
            f"There is no request '{request_id[:128]}' here: its row was deleted, another gateway rejected it, newer "
            "rejections have replaced it, or it was not an inference request."
        )

    return routes


def _statuses(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    if not re.fullmatch(r"[1-5](xx|[0-9]{2})", text):
        raise InvalidRequestError(f"'{text[:20]}' is no status; write 429, 4xx or 5xx.", param="status")
    return int(text.replace("x", "0")), int(text.replace("x", "9"))


_COLUMNS = {"adapter", "tenant", "key", "day"}


class PruneBody(Schema):
    """JSON body of a deletion of old rows: those before this moment, ISO 8601."""

    model_config = ConfigDict(extra="forbid")
    before: str


class ErasureBody(Schema):
    """JSON body of the deletion of a tenant's name."""

    model_config = ConfigDict(extra="forbid")
    tenant: str


def usage_routes(
    metering: Metering, *, base: str, usage: Any, admin: Any, erase_refusals: Callable[[str, str], object]
) -> APIRouter:
    """Routes about usage; times are ISO 8601, all history by default. `usage` and `admin` demand these scopes."""
    routes = APIRouter(prefix="/admin/v1/usage", tags=["usage"])

    @routes.get("")
    async def summed_up(
        caller: Annotated[Caller, Depends(usage)],
        group_by: str = "adapter",
        since: str | None = None,
        until: str | None = None,
        adapter: str | None = None,
        tenant: str | None = None,
        key: str | None = None,
    ) -> dict[str, Any]:
        """Sum requests and tokens by any of adapter, tenant, key and day; any of the first three also filters.

        A caller that is no admin gets the usage of its tenant. Where rows were deleted, windows are whole hours.
        """
        filters = {
            name: value for name, value in zip(_FILTERS, (adapter, tenant, key), strict=True) if value is not None
        }
        columns, window = _columns(group_by), await REPORTS.run(metering.summary.window, *_window(since, until))
        return _grouped([each for each in window.sums if caller.may_see(each.tenant)], columns, filters, base)

    @routes.get("/rows")
    async def rows(
        caller: Annotated[Caller, Depends(usage)],
        format: str = "jsonl",  # noqa: A002
        since: str | None = None,
        until: str | None = None,
        tenant: str | None = None,
    ) -> StreamingResponse:
        """The ledger's rows in order of time, as JSON Lines or CSV; of its own tenant unless the caller is an admin."""
        if format not in CONTENT_TYPES:
            raise InvalidRequestError(f"There is no format '{format}'; use jsonl or csv.", param="format")
        whose = tenant if caller.is_admin else caller.tenant
        pages = await REPORTS.run(metering.pages, *_window(since, until), whose)
        return StreamingResponse(REPORTS.iterate(encode_pages(pages, format)), media_type=CONTENT_TYPES[format])

    _add_upkeep(routes, metering, admin, erase_refusals)
    return routes


def _add_upkeep(
    routes: APIRouter, metering: Metering, admin: Any, erase_refusals: Callable[[str, str], object]
) -> None:
    @routes.get("/reconciliation", dependencies=[Depends(admin)])
    async def reconciliation(since: str | None = None) -> dict[str, Any]:
        """Reconcile the ledger's tokens with the engines' own counters, by run of an engine, read now."""
        results, unattributed = await metering.reconcile(parse_us(since, "since") or 0)
        return reconciliation_document(results, unattributed)

    @routes.post("/prune", openapi_extra=body_of(PruneBody))
    async def prune(request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Delete the ledger's rows before a moment; their hours are summed up first, so no sum changes."""
        before_us = parse_us(read_body(PruneBody, await request.body()).before, "before") or 0
        deleted = await REPORTS.run(metering.prune, min(before_us, now_us()), actor=caller.key_id)
        return {"deleted_rows": deleted}

    @routes.post("/forget", openapi_extra=body_of(ErasureBody))
    async def forget(request: Request, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Replace a tenant's name and the ids of its keys in old usage by pseudonyms; sums stay as they are."""
        tenant = read_body(ErasureBody, await request.body()).tenant
        erased = await REPORTS.run(metering.erasure.erase, tenant, actor=caller.key_id)
        await REPORTS.run(erase_refusals, tenant, erased.pseudonym)
        return {"pseudonym": erased.pseudonym, "rows": erased.rows, "keys": erased.keys}


_FILTERS = ("adapter", "tenant", "key")


def _grouped(sums: Iterable[UsageSums], columns: list[str], filters: dict[str, str], base: str) -> dict[str, Any]:
    groups: dict[tuple[str, ...], dict[str, int]] = {}
    for each in sums:
        if all(_value(each, name, base) == value for name, value in filters.items()):
            group = tuple(_value(each, column, base) for column in columns)
            counts = groups.setdefault(group, dict.fromkeys(COUNTS, 0))
            for count in COUNTS:
                counts[count] += getattr(each, count)
    return {"object": "list", "data": [dict(zip(columns, k, strict=True)) | v for k, v in sorted(groups.items())]}


def _columns(group_by: str) -> list[str]:
    columns = [column for column in group_by.split(",") if column]
    if unknown := set(columns) - _COLUMNS:
        raise InvalidRequestError(
            f"Cannot group by '{unknown.pop()}'; choose from {', '.join(sorted(_COLUMNS))}.", param="group_by"
        )
    return columns


def _window(since: str | None, until: str | None) -> tuple[int, int]:
    return parse_us(since, "since") or 0, parse_us(until, "until") or now_us() + 1


def _value(sums: UsageSums, column: str, base: str) -> str:
    if column == "day":
        return iso_date(sums.period * DAY_US)
    return {"adapter": sums.adapter or base, "tenant": sums.tenant, "key": sums.key_id}[column]
