"""Prices of frontier APIs per million tokens, dated and with their source; a missing price is an error, never 0.

book.py finds a price in the operator's and our own files (price_file.py), else in genai-prices (catalogue.py).
"""
