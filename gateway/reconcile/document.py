"""The reconciliation as JSON, for the admin API and the command line."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.reconcile.verdict import JUDGED, Agreement, Judgement


def document(judgements: Sequence[Judgement], unattributed: int) -> dict[str, Any]:
    """Every run with both sums, their ratio and the verdict; `agreement` is the worst of them."""
    found = {judgement.agreement for judgement in judgements}
    worst = next((one for one in (Agreement.OUTSIDE, Agreement.RUNNING) if one in found), Agreement.AGREES)
    return {
        "object": "list",
        "agreement": worst,
        "interrupted_without_engine": unattributed,
        "data": [_run(judgement) for judgement in judgements],
    }


def _run(judgement: Judgement) -> dict[str, Any]:
    run, booked = judgement.run, judgement.booked
    return {
        "engine": run.engine,
        "run": run.run,
        "first_seen": _iso(run.first_us),
        "last_seen": _iso(run.seen_us),
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


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="milliseconds")
