"""Fixtures in, rows of the parity table out."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import parity

ROOT = Path(__file__).parents[2]
FLOOR, SHARE = 1e-5, 1e-3  # tolerance: max(1e-5, 1e-3 x standard deviation of the expected tensor)
PIXELS = 3  # of a mask or label map that may differ
EQUAL, DIFFERENT, SKIPPED = "equal", "different", "not compared"


@dataclass(frozen=True)
class Skip:
    """An output that is not compared, and why."""

    reason: str


@dataclass(frozen=True)
class Near:
    """An output whose tolerance the fixture's README widens: at least `atol`, and why."""

    array: Any
    atol: float
    reason: str


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    model: str
    key: str
    status: str
    max_diff: float | None = None
    tol: float | None = None
    reason: str = ""


class Fixture:
    """A folder of fixtures: config.json, io.npz and the checkpoint, of whatever sizes it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    @cached_property
    def config(self) -> dict[str, Any]:
        """What config.json says; {} without one."""
        path = self.folder / "config.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    @cached_property
    def io(self) -> dict[str, np.ndarray]:
        """Every array, by key."""
        with np.load(self.folder / "io.npz") as file:
            return dict(file)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint in its public format."""
        return self.folder / "checkpoint.pth"

    @property
    def outs(self) -> list[str]:
        """The keys of what the official code computed."""
        return sorted(key for key in self.io if key.startswith("out."))

    def has(self, key: str) -> bool:
        """Whether the fixture holds a key ("in.box")."""
        return key in self.io


def folder() -> Path:
    """Where the fixtures are: SEGWISE_PARITY_DIR, else ../shared/parity."""
    return Path(os.environ.get("SEGWISE_PARITY_DIR") or ROOT.parent / "shared" / "parity")


def models() -> list[str]:
    """The models that have a file here."""
    names = [module.name for module in pkgutil.iter_modules(parity.__path__)]
    return sorted(set(names) - {"harness", "__main__"})


def fixtures() -> list[Fixture]:
    """Every fixture of the folder, those of models without a file here as well."""
    return [Fixture(path.parent) for path in sorted(folder().glob("*/io.npz"))]


def rows(fixture: Fixture) -> Iterator[Row]:
    """The table's lines of one model: one for each `out.*` key, all different if our code breaks on the fixture."""
    if fixture.name not in models():
        yield from (Row(fixture.name, key, SKIPPED, reason="no comparison is written") for key in fixture.outs)
        return
    try:
        found: Mapping[str, Any] = importlib.import_module(f"parity.{fixture.name}").outputs(fixture)
    except Exception as error:  # one broken model must not hide the others
        traceback.print_exc()
        reason = f"our code broke: {type(error).__name__}: {error}"
        yield from (Row(fixture.name, key, DIFFERENT, reason=reason) for key in fixture.outs)
        return
    for key in fixture.outs:
        yield row(fixture.name, key, found.get(key, Skip("our code gives no such output")), fixture.io[key])


def row(model: str, key: str, ours: Any, expected: np.ndarray) -> Row:
    """One line: our output against the expected one."""
    if isinstance(ours, Skip):
        return Row(model, key, SKIPPED, reason=ours.reason)
    least, reason = 0.0, ""
    if isinstance(ours, Near):
        ours, least, reason = ours.array, ours.atol, ours.reason
    ours = np.asarray(ours.detach().cpu().float() if hasattr(ours, "detach") else ours)
    if ours.shape != expected.shape:
        return Row(model, key, DIFFERENT, reason=f"shape {ours.shape}, expected {expected.shape}")
    if expected.dtype.kind in "biu":
        differ = int((ours != expected).sum())
        worst = float(np.abs(ours.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
        why = reason or (f"{differ} of {expected.size} values differ" if differ else "")
        return Row(model, key, EQUAL if differ <= PIXELS else DIFFERENT, worst, 0.0, why)
    spread = float(expected.astype(np.float64).std()) if expected.size else 0.0
    tol = max(FLOOR, SHARE * spread, least)
    if expected.dtype == np.float16:
        tol += float(np.abs(expected).max(initial=0)) * 2.0**-11
        reason = "; ".join(filter(None, [reason, "stored as float16: half a unit in its last place is added"]))
    worst = float(np.abs(ours.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    return Row(model, key, EQUAL if worst <= tol else DIFFERENT, worst, tol, reason)  # nan differs
