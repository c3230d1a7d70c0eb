"""Look-up of single requests: answered ones from the ledger's rows, refused ones from the refusal log."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, or_, select
from sqlalchemy.engine import RowMapping

from gateway.clock import iso_z
from gateway.metering import OWN_KEY, SHADOW_KEY
from gateway.metering.refusal_log import Refusal, RefusalLog
from gateway.metering.tables import usage_ledger
from gateway.money import NANO

_MESSAGES = {
    "client_abort": "The client closed its connection before its answer was complete.",
    "unseen": "No engine saw this attempt; the next one has a row of its own.",
    "interrupted": "The gateway ended while this request ran.",
}
"""Messages of requests that ended without an error message."""


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Conditions on requests; None matches all."""

    since_us: int
    least_status: int | None = None
    most_status: int | None = None
    key: str | None = None
    tenant: str | None = None
    model: str | None = None

    def matches(self, refusal: Refusal) -> bool:
        """Whether a refusal meets the conditions."""
        return (
            refusal.at_us >= self.since_us
            and (self.least_status is None or self.least_status <= refusal.status)
            and (self.most_status is None or refusal.status <= self.most_status)
            and self.key in (None, refusal.key_id)
            and self.tenant in (None, refusal.tenant)
            and (self.model is None or self.model in (refusal.model, refusal.version, _name(refusal.version)))
        )

    def sql(self) -> list[ColumnElement[bool]]:
        """Return the conditions in SQL, for ledger rows."""
        row = usage_ledger.c
        found: list[ColumnElement[bool]] = [row.opened_us >= self.since_us]
        if self.least_status is not None:
            found.append(row.status >= self.least_status)
        if self.most_status is not None:
            found.append(row.status <= self.most_status)
        if self.key is None:
            found.append(row.key_id.not_in((OWN_KEY, SHADOW_KEY)))
        else:
            found.append(row.key_id == self.key)
        if self.tenant is not None:
            found.append(row.tenant == self.tenant)
        if self.model is not None:
            found.append(or_(row.model == self.model, row.adapter == self.model))
        return found


class RequestHistory:
    """Finds requests; methods block. `flush` folds pending rows into the ledger first."""

    def __init__(self, database: Engine, refusals: RefusalLog, flush: Callable[[], object]) -> None:
        self._database = database
        self._refusals = refusals
        self._flush = flush

    def find(self, request_id: str) -> list[dict[str, Any]]:
        """Return every request and attempt of an id, ours or the client's own, newest first."""
        row = usage_ledger.c
        named = or_(row.request_id == request_id, row.client_request_id == request_id)
        found = [*self._rows([named], 100), *map(_refusal_document, self._refusals.find(request_id))]
        return sorted(found, key=_order, reverse=True)

    def newest(self, conditions: RequestFilter, limit: int) -> list[dict[str, Any]]:
        """Return the newest requests that match a filter."""
        refused = sorted(filter(conditions.matches, self._refusals.all()), key=lambda refusal: -refusal.at_us)[:limit]
        found = [*self._rows(conditions.sql(), limit), *map(_refusal_document, refused)]
        return sorted(found, key=_order, reverse=True)[:limit]

    def _rows(self, conditions: list[ColumnElement[bool]], limit: int) -> list[dict[str, Any]]:
        self._flush()
        row = usage_ledger.c
        query = select(usage_ledger).where(*conditions).order_by(row.opened_us.desc(), row.attempt.desc()).limit(limit)
        with self._database.connect() as connection:
            return [_row_document(row) for row in connection.execute(query).mappings()]


def _order(document: dict[str, Any]) -> tuple[str, int]:
    return document["at"], document["attempt"]


def _name(version: str | None) -> str | None:
    return None if version is None else version.partition("@")[0]


def _ms(value_us: int | None) -> float | None:
    return None if value_us is None else round(value_us / 1000, 1)


def _row_document(row: RowMapping) -> dict[str, Any]:
    outcome = row["finish"] or row["state"]
    message = row["error_message"] or _MESSAGES.get(outcome)
    cost = row["cost_nano_usd"]
    return {
        "object": "request",
        "id": row["request_id"],
        "client_request_id": row["client_request_id"],
        "at": iso_z(row["opened_us"], "milliseconds"),
        "status": row["status"],
        "outcome": outcome,
        "reason": {"code": row["error_code"] or outcome, "message": message} if message else None,
        "key": row["key_id"],
        "tenant": row["tenant"],
        "api": row["endpoint"],
        "model": row["model"],
        "version": row["adapter"],
        "digest": row["digest"] and row["digest"][:12],
        "engine": row["engine"],
        "attempt": row["attempt"],
        "stream": row["stream"],
        "timings_ms": {
            "queue": _ms(row["queue_us"]),
            "ttft": _ms(row["ttft_us"]),
            "total": None if row["latency_us"] is None else _ms(row["latency_us"] + (row["queue_us"] or 0)),
        },
        "tokens": {
            "prompt": row["prompt_tokens"],
            "cached": row["cached_tokens"],
            "completion": row["completion_tokens"],
            "evidence": row["evidence"],
        },
        "cost_usd": None if cost is None else cost / NANO,
        "found_in": "ledger",
    }


def _refusal_document(refusal: Refusal) -> dict[str, Any]:
    return {
        "object": "request",
        "id": refusal.id,
        "client_request_id": refusal.client_id,
        "at": iso_z(refusal.at_us, "milliseconds"),
        "status": refusal.status,
        "outcome": "client_abort" if refusal.kind == "cancelled" else "refused" if refusal.status < 500 else "failed",
        "reason": {"code": refusal.code, "message": refusal.message},
        "key": refusal.key_id,
        "tenant": refusal.tenant,
        "api": refusal.api,
        "model": refusal.model,
        "version": refusal.version,
        "digest": None,
        "engine": None,
        "attempt": 1,
        "stream": refusal.stream,
        "timings_ms": {"queue": None, "ttft": None, "total": _ms(refusal.took_us)},
        "tokens": None,
        "cost_usd": None,
        "found_in": "refusals of this gateway",
    }
