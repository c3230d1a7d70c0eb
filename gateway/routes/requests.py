"""/admin/v1/requests: what became of a request, by its id, and lists of requests by how they ended."""

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from gateway.errors import InvalidRequestError, NotFoundError
from gateway.ledger import now_us
from gateway.request_history import Filter, RequestHistory
from gateway.routes.times import parse_us

DAY_US = 86400 * 10**6


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
        """Requests, the newest first: of the last day unless `since` says otherwise; `status` is like 429 or 4xx."""
        for name, value in (("key", key), ("tenant", tenant), ("model", model)):
            if value is not None and not value.isprintable():
                raise InvalidRequestError(f"'{name}' holds characters that no name has.", param=name)
        since_us = parse_us(since, "since")
        least, most = _statuses(status)
        wanted = Filter(now_us() - DAY_US if since_us is None else since_us, least, most, key, tenant, model)
        return {"object": "list", "data": await asyncio.to_thread(history.newest, wanted, limit)}

    @routes.get("/{request_id:path}")
    async def shown(request_id: str) -> dict[str, Any]:
        """Every request of this id: ours, or one that clients chose themselves, which several may share."""
        if request_id.isprintable() and (found := await asyncio.to_thread(history.find, request_id)):
            return {"object": "list", "data": found}
        raise NotFoundError(
            f"There is no request '{request_id[:128]}' here: its row was deleted, another gateway refused it, newer "
            "refusals took its place, or it was for no path that asks a model."
        )

    return routes


def _statuses(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    if not re.fullmatch(r"[1-5](xx|[0-9]{2})", text):
        raise InvalidRequestError(f"'{text[:20]}' is no status; write 429, 4xx or 5xx.", param="status")
    return int(text.replace("x", "0")), int(text.replace("x", "9"))
