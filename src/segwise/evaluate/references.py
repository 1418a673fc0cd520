"""References by name, unions of both sides included: what a simulated user knows and what `score` compares with.

Where a case has "left thalamus" and "right thalamus", the union "thalamus" can be asked of a model that knows both only
together, and is made here from the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from segwise import anatomy
from segwise.case import Case, Structure, Target
from segwise.errors import DatasetError
from segwise.evaluate.masks import box_of
from segwise.geometry import Array, Grid


def unions(case: Case) -> dict[str, tuple[str, str]]:
    """Name of a union -> its (left, right) names, both of which the case has."""
    names = {structure.name for structure in case.structures}
    found = {}
    for left in sorted(names):
        if anatomy.side(left) == "left":
            both = anatomy.without_side(left)
            right = next((n for n in names if anatomy.side(n) == "right" and anatomy.without_side(n) == both), None)
            if right is not None:
                found[both] = (left, right)
    for structure in case.structures:
        if structure.sides and set(structure.sides) <= names:
            found[structure.name] = structure.sides
    return found


def matching(case: Case, word: str) -> tuple[str, ...]:
    """Names of a case's structures that a word means: itself, and for a union its two sides as well."""
    both = unions(case)
    for name in (word, anatomy.resolve(word).name):
        structure = case.structure(name)
        if name in both or (structure and structure.name in both):
            union = name if name in both else str(structure.name if structure else name)
            return (*both[union], union)
        if structure:
            return (structure.name,)
    return ()


def masks(case: Case, names: Sequence[str]) -> dict[str, Array]:
    """Reference masks by name, bool [D, H, W]; a union is the OR of its sides unless the case has it itself.

    Raises:
        DatasetError: a name that this case does not have, or it cannot be read (any more).
    """
    both = unions(case)
    needed: dict[str, Structure] = {}
    for name in names:
        for one in (name,) if case.structure(name) else both.get(name, (name,)):
            structure = case.structure(one)
            if structure is None:
                raise DatasetError(f"case {case.id} has no {one}{case.broken and f': {case.broken}'}")
            needed[one] = structure
    loaded = dict(zip(needed, case.load_masks(tuple(needed.values())), strict=True))
    return {
        name: np.asarray(loaded[name] if name in loaded else loaded[both[name][0]] | loaded[both[name][1]], dtype=bool)
        for name in names
    }


def targets(case: Case, names: Sequence[str], grid: Grid) -> dict[str, Target]:
    """As `masks`, for a simulated user: a union carries its sides as parts."""
    both = unions(case)
    every = dict.fromkeys([*names, *(side for name in names for side in both.get(name, ()))])
    found = masks(case, list(every))
    for mask in found.values():
        mask.setflags(write=False)

    def one(name: str) -> Target:
        parts = (_target(both[name][0], found, grid), _target(both[name][1], found, grid)) if name in both else None
        return Target(name, found[name], grid, parts)

    return {name: one(name) for name in names}


def label(case: Case, name: str) -> str:
    """What the data set itself calls a target; a union made here is its sides', joined by "+"."""
    structure = case.structure(name)
    if structure is not None:
        return structure.raw
    sides = (case.structure(side) for side in unions(case).get(name, ()))
    return " + ".join(side.raw for side in sides if side is not None)


def ignored(case: Case) -> Array | None:
    """bool [D, H, W]: voxels that must not be scored, or None."""
    if case.ignore is None:
        return None
    mask = case.load_masks((Structure("ignore", "ignore", (case.ignore,), known=False),))[0]
    return np.asarray(mask, dtype=bool) if mask.any() else None


def digest_of(mask: Array) -> str:
    """Hash of a reference's voxels: a corrected label has another one. bool [D, H, W]."""
    low, high = box_of(mask)
    crop = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    words = repr((mask.shape, low)).encode()
    return hashlib.blake2b(words + np.packbits(crop).tobytes(), digest_size=16).hexdigest()


def _target(name: str, found: dict[str, Array], grid: Grid) -> Target:
    return Target(name, found[name], grid)
