"""Which recipes there are, and how to get one. Names and summaries are read from the sources; nothing is imported."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

from segwise.errors import TrainingError
from segwise.training import recipes

if TYPE_CHECKING:
    from segwise.training.contract import Recipe


def names() -> tuple[str, ...]:
    """All recipes, sorted; "-" in a name is "_" in its file."""
    found = (module.name for module in pkgutil.iter_modules(recipes.__path__))
    return tuple(sorted(name.replace("_", "-") for name in found if not name.startswith("_")))


def summary(name: str) -> str:
    """The first line of a recipe's docstring, "" if it has none.

    Raises:
        TrainingError: no such recipe.
    """
    spec = importlib.util.find_spec(_module(name))
    assert spec is not None and spec.origin is not None
    said = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return said.split("\n", 1)[0]


def load(name: str, *, seed: int, steps: int | None = None) -> Recipe:
    """A recipe, its net drawn from the seed.

    Args:
        name: as `names` has it.
        seed: of everything drawn.
        steps: optimiser steps of the whole schedule; None: the recipe's own.

    Raises:
        TrainingError: no such recipe, or torch is not installed.
    """
    where = _module(name)
    try:
        import torch

        module = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("segwise"):
            raise
        raise TrainingError(f"training needs {error.name}; install it: pip install 'segwise[train]'") from error
    torch.manual_seed(seed)
    made: Recipe = module.recipe(seed=seed, steps=steps)
    return made


def _module(name: str) -> str:
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f' (did you mean "{near[0]}"?)' if near else ""
        raise TrainingError(f'no recipe "{name}"{hint}; there are: {", ".join(known) or "none"}')
    return f"{recipes.__name__}.{name.replace('-', '_')}"
