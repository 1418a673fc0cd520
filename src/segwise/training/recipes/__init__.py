"""What `segwise train NAME` trains: one recipe a file, found by its name.

Each has `recipe(*, seed: int, steps: int | None = None) -> Recipe` (None: its own schedule), and a docstring whose
first line says what it trains.
"""
