"""The judgement on one run of an engine: do the ledger's tokens agree with the engine's?

The engine's counters are read while requests run. What they say must lie between the tokens of all requests that had
ended before and of all that had begun; with nothing running the two are one number. So the judgement needs no quiet
moment, and no allowance for what is under way.
"""

from dataclasses import dataclass
from enum import StrEnum

from gateway.metering.reconcile.engine_counters import KINDS, EngineRunCounters
from gateway.metering.reconcile.ledger_totals import LedgerTotals

TOLERANCE = 0.001
LEAST_TOKENS = 10
"""A difference up to this is no alarm, however few tokens there were: below 10,000 a thousandth is less than that."""
JUDGED = ("prompt_tokens", "completion_tokens")
"""Cached tokens are shown and not judged: engines tell them once for all answers to a prompt, or not at all."""


class Agreement(StrEnum):
    """AGREES, or OUTSIDE the tolerance; RUNNING: too little is booked yet, and requests are still open."""

    AGREES = "agrees"
    OUTSIDE = "outside"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class TokenComparison:
    """One kind of tokens: `ledger` is what is booked, `ratio` ledger to engine, None when the engine counted none."""

    kind: str
    ledger: int
    engine: int
    ratio: float | None
    agreement: Agreement


@dataclass(frozen=True)
class ReconcileResult:
    """One run of an engine, kind by kind; `running` requests were open when it was made."""

    run: EngineRunCounters
    booked: LedgerTotals
    running: int
    kinds: tuple[TokenComparison, ...]

    @property
    def agreement(self) -> Agreement:
        """The worst of the kinds that are judged."""
        found = {one.agreement for one in self.kinds if one.kind in JUDGED}
        for worst in (Agreement.OUTSIDE, Agreement.RUNNING):
            if worst in found:
                return worst
        return Agreement.AGREES


def judge(run: EngineRunCounters, booked: LedgerTotals, running: int) -> ReconcileResult:
    """Compare what is booked for a run with what its engine counted."""
    return ReconcileResult(run, booked, running, tuple(_compare(kind, run, booked, running) for kind in KINDS))


def _compare(kind: str, run: EngineRunCounters, booked: LedgerTotals, running: int) -> TokenComparison:
    pruned, engine = getattr(run.pruned, kind), getattr(run.counted, kind)
    surely, at_most = getattr(booked.surely, kind) + pruned, getattr(booked.at_most, kind) + pruned
    nearest = min(max(engine, surely), at_most)
    allowed = max(LEAST_TOKENS, engine * TOLERANCE)
    if abs(nearest - engine) <= allowed:
        agreement = Agreement.AGREES
    elif running and nearest < engine:
        agreement = Agreement.RUNNING
    else:
        agreement = Agreement.OUTSIDE
    return TokenComparison(kind, at_most, engine, nearest / engine if engine else None, agreement)
