"""Prometheus gauges of the reconciliation, for the engines' present runs."""

from prometheus_client import CollectorRegistry, Gauge

from gateway.reconcile.verdict import Agreement, Judgement


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

    def show(self, engine: str, judgement: Judgement) -> None:
        """Show the latest judgement on an engine."""
        for one in judgement.kinds:
            if one.ratio is not None:
                self._ratio.labels(engine, one.kind.removesuffix("_tokens")).set(one.ratio)
        self._outside.labels(engine).set(judgement.agreement is Agreement.OUTSIDE)
