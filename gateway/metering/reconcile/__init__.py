"""Reconciliation: the ledger's tokens for each run of an engine against the engine's own counters."""
