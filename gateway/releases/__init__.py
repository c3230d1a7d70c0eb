"""Releases: publish, promotion gate, rollout, canary and shadow of adapter versions."""
