"""The reconcile result of one run of an engine: do the ledger's tokens agree with the engine's counters?

The counters are read while requests run. They must lie between the tokens of all requests that had ended before the
reading and of all that had begun; with nothing running the two are one number. So reconciliation needs no quiet moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gateway.clock import iso
from gateway.metering.reconcile.engine_counters import EngineRunCounters
from gateway.metering.reconcile.ledger_totals import LedgerTotals
from gateway.metering.tables import TOKEN_KINDS

TOLERANCE = 0.001
LEAST_TOKENS = 10
"""Differences up to this are tolerated however few tokens there were: below 10,000 a thousandth is less than that."""
JUDGED = ("prompt_tokens", "completion_tokens")
"""Cached tokens are shown only: engines count them once for all choices, or not at all."""


class ReconcileAgreement(StrEnum):
    """AGREES, OUTSIDE the tolerance, or RUNNING: too little is booked yet, and requests are still open."""

    AGREES = "agrees"
    OUTSIDE = "outside"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class TokenComparison:
    """One kind of tokens: booked on the ledger, counted by the engine; the ratio is None when it counted none."""

    kind: str
    ledger: int
    engine: int
    ratio: float | None
    agreement: ReconcileAgreement


@dataclass(frozen=True)
class ReconcileResult:
    """One run of an engine by kind of tokens; `running` requests were open at that time."""

    run: EngineRunCounters
    booked: LedgerTotals
    running: int
    kinds: tuple[TokenComparison, ...]

    @property
    def agreement(self) -> ReconcileAgreement:
        """The worst agreement of the judged kinds."""
        return _worst({comparison.agreement for comparison in self.kinds if comparison.kind in JUDGED})


def reconcile(run: EngineRunCounters, booked: LedgerTotals, running: int) -> ReconcileResult:
    """Compare the tokens booked for a run with the engine's counters."""
    kinds = tuple(_compare(kind, run, booked, running) for kind in TOKEN_KINDS)
    return ReconcileResult(run, booked, running, kinds)


def _compare(kind: str, run: EngineRunCounters, booked: LedgerTotals, running: int) -> TokenComparison:
    pruned, engine = getattr(run.pruned, kind), getattr(run.counted, kind)
    surely, at_most = getattr(booked.surely, kind) + pruned, getattr(booked.at_most, kind) + pruned
    nearest = min(max(engine, surely), at_most)
    allowed = max(LEAST_TOKENS, engine * TOLERANCE)
    if abs(nearest - engine) <= allowed:
        agreement = ReconcileAgreement.AGREES
    elif running and nearest < engine:
        agreement = ReconcileAgreement.RUNNING
    else:
        agreement = ReconcileAgreement.OUTSIDE
    return TokenComparison(kind, at_most, engine, nearest / engine if engine else None, agreement)


def reconciliation_document(results: Sequence[ReconcileResult], unattributed: int) -> dict[str, Any]:
    """Return the results as JSON, with the worst agreement and the number of interrupted rows of no known run."""
    return {
        "object": "list",
        "agreement": _worst({result.agreement for result in results}),
        "interrupted_without_engine": unattributed,
        "data": [_result_document(result) for result in results],
    }


def _result_document(result: ReconcileResult) -> dict[str, Any]:
    run, booked = result.run, result.booked
    return {
        "engine": run.engine,
        "run": run.run,
        "first_seen": iso(run.first_us, "milliseconds"),
        "last_seen": iso(run.seen_us, "milliseconds"),
        "agreement": result.agreement,
        "running": result.running,
        "rows": {who: booked.rows[who] for who in sorted(booked.rows)} | {"deleted": run.pruned_rows},
        "evidence": {source: booked.evidence[source] for source in sorted(booked.evidence)},
        "tokens": {
            comparison.kind: {
                "ledger": comparison.ledger,
                "engine": comparison.engine,
                "ratio": comparison.ratio,
                "agreement": comparison.agreement if comparison.kind in JUDGED else "not judged",
            }
            for comparison in result.kinds
        },
    }


def _worst(found: set[ReconcileAgreement]) -> ReconcileAgreement:
    return next(
        (agreement for agreement in (ReconcileAgreement.OUTSIDE, ReconcileAgreement.RUNNING) if agreement in found),
        ReconcileAgreement.AGREES,
    )
