"""Prices: what frontier APIs charge per million tokens, dated and with their source; what has no price is an error."""
