"""Simulated users, one a file: CARD, first(...) and next(...)."""
