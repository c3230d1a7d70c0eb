"""Costs: the engines' bill, who caused it, what it would have been elsewhere, and when own engines pay at all."""
