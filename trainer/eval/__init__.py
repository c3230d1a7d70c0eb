"""Proof: one frozen task, several arms asked through the gateway, metrics with intervals, and a verdict."""
