"""Tiny trees as the rows that the inventory gives: what the tests of the layouts share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dataset_trees as trees
from segwise import catalog
from segwise.evaluate.inventory import find, inventory
from segwise.spec import parse


def planted(name: str, folder: Path) -> tuple[str, Path]:
    layout, make = trees.TREES[name]
    (folder / name).mkdir()
    return layout, make(folder / name)


def rows(root: Path, layout: str | None = None, split: str | None = None) -> dict[str, dict[str, Any]]:
    if split is None:
        return {row["id"]: row for row in inventory(find(root, layout)[1])}
    module, arguments = catalog.load("datasets", parse(layout or ""))
    return {row["id"]: row for row in inventory(module.cases(root, split, **arguments))}


def targets(row: dict[str, Any]) -> dict[str, tuple[Any, int]]:
    assert row["error"] == ""
    return {t["name"]: (t["value"], t["voxels"]) for t in row["targets"]}
