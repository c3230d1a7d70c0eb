"""Numbered schema changes, applied in order at start."""
