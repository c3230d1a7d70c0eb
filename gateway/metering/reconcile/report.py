"""The reconciliation as JSON, for the admin API and the command line.

Prometheus gauges of the reconciliation, for the engines' present runs.
"""

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from gateway.clock import iso
from gateway.metering.reconcile.verdict import JUDGED, Agreement, ReconcileResult


def document(judgements: Sequence[ReconcileResult], unattributed: int) -> dict[str, Any]:
    """Every run with both sums, their ratio and the verdict; `agreement` is the worst of them."""
    found = {judgement.agreement for judgement in judgements}
    worst = next((one for one in (Agreement.OUTSIDE, Agreement.RUNNING) if one in found), Agreement.AGREES)
    return {
        "object": "list",
        "agreement": worst,
        "interrupted_without_engine": unattributed,
        "data": [_run(judgement) for judgement in judgements],
    }


def _run(judgement: ReconcileResult) -> dict[str, Any]:
    run, booked = judgement.run, judgement.booked
    return {
        "engine": run.engine,
        "run": run.run,
        "first_seen": iso(run.first_us, "milliseconds"),
        "last_seen": iso(run.seen_us, "milliseconds"),
        "agreement": judgement.agreement,
        "running": judgement.running,
        "rows": {who: booked.rows[who] for who in sorted(booked.rows)} | {"deleted": run.pruned_rows},
        "evidence": {kind: booked.evidence[kind] for kind in sorted(booked.evidence)},
        "tokens": {
            one.kind: {
                "ledger": one.ledger,
                "engine": one.engine,
                "ratio": one.ratio,
                "agreement": one.agreement if one.kind in JUDGED else "not judged",
            }
            for one in judgement.kinds
        },
    }


class ReconcileGauges:
    """What monitoring sees; an engine that tells no counters is absent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._ratio = Gauge(
            "turntable_ledger_engine_ratio",
            "Tokens on the ledger to tokens that the engine counted, over its present run.",
            ("engine", "kind"),
            registry=registry,
        )
        self._outside = Gauge(
            "turntable_ledger_engine_outside",
            "1 while ledger and engine differ by more than a thousandth.",
            ("engine",),
            registry=registry,
        )

    def show(self, engine: str, judgement: ReconcileResult) -> None:
        """Show the latest judgement on an engine."""
        for one in judgement.kinds:
            if one.ratio is not None:
                self._ratio.labels(engine, one.kind.removesuffix("_tokens")).set(one.ratio)
        self._outside.labels(engine).set(judgement.agreement is Agreement.OUTSIDE)
