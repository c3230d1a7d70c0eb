"""Reconciliation: what the ledger has booked against what each run of an engine says it has worked."""
