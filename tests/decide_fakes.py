"""Runs and scenarios with planted costs, for the tests of `decide`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from report_fakes import Run, join, outcome
from segwise.decide import scenario
from segwise.decide.measured import Measured, measured
from segwise.decide.scenario import Scenario
from segwise.records.run import Run as RunFolder


def plain(**values: float) -> Scenario:
    """Everything free and instant except a click of 10 s at 36 an hour: 0.1 a click."""
    free = dict.fromkeys(scenario.KINDS, 0.0)
    free |= {key: kind.least for key, kind in scenario.KINDS.items() if kind.least > 0}
    free |= {"years": 1, "cases_per_year": 100, "speed_factor": 1, "accept_dsc": 0.8, "shift_hours": 8}
    free |= {
        "wage_hour": 36,
        "click_s": 10,
        "hand_minutes": 1,
        "repair_minutes": 1,
        "arrivals_per_hour": 60,
        "ahead_share": 0,
    }
    content = {"dated": "2026-11", "currency": "EUR", "assumptions": {**free, **values}}
    return scenario.build(content, name="plain", source="plain.toml")


def pair(
    n: int = 12,
    *,
    dsc: tuple[float, ...] = (0.9,),
    special: float = 0.9,
    noise: float = 0.0,
    seconds: float = 0.0,
    seed: int = 0,
) -> Run:
    """A generalist of one click a round and a specialist that is asked by name, on the same n subjects."""
    rng = np.random.default_rng(seed)
    runs = []
    for i in range(n):
        own = tuple(float(np.clip(v + rng.normal(0, noise), 0, 1)) if noise else v for v in dsc)
        runs.append(outcome("general", "clicks(n=5)", case=f"c{i:02}", dsc=own, seconds=seconds))
        named = float(np.clip(special + rng.normal(0, noise), 0, 1)) if noise else special
        runs.append(outcome("special", "name", case=f"c{i:02}", dsc=(named,), n_interactions=0, seconds=seconds))
    return join(*runs)


def arms(run: Run) -> tuple[Measured, Measured]:
    """(generalist, specialist)."""
    first, second = measured(*run)
    return first, second


def folder(path: Path, run: Run, **plan: str) -> Path:
    """The run as a folder."""
    with RunFolder.write(path) as store:
        store.describe({"plan": {"name": "planted", "metrics": ["overlap"], **plan}, "command": ["run"], "n_tasks": 1})
        store.add(run[0])
        store.add_scores(run[1])
    return path
