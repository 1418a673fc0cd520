"""Metrics, one family a file: CARD and score(pair, ...)."""
