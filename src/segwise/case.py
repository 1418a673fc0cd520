"""A case: a volume with its references, read only when asked for.

Readers in `datasets/` make cases; prompters and metrics see `Target`s; models see neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from segwise.errors import GridError
from segwise.geometry import Array, Grid, Volume


@dataclass(frozen=True)
class Structure:
    """What a case has a reference for.

    Attributes:
        name: the common name of `anatomy`, or the data set's own name where that is unknown.
        raw: what the data set calls it.
        values: the label values that make it up; () where the data set holds a file a structure.
        known: the name was found in the anatomy vocabulary.
        sides: (left, right) names if this is the union of the two, else None.
    """

    name: str
    raw: str
    values: tuple[int, ...] = ()
    known: bool = True
    sides: tuple[str, str] | None = None


@dataclass(frozen=True, eq=False)
class Target:
    """What a simulated user knows: the reference of one structure.

    Attributes:
        name: as `Structure.name`.
        mask: bool [D, H, W], read-only.
        grid: where it lies.
        parts: for a union of both sides: the (left, right) targets; else None.
    """

    name: str
    mask: Array
    grid: Grid
    parts: tuple[Target, Target] | None = None

    def __post_init__(self) -> None:
        if self.mask.dtype != bool or self.mask.shape != self.grid.shape:
            raise GridError(
                f"target {self.name}: mask is {self.mask.dtype} {self.mask.shape}, expected bool {self.grid.shape}"
            )


@dataclass(frozen=True, eq=False)
class Case:
    """A volume with its references. Nothing is read before it is asked for, and nothing is kept.

    Attributes:
        id: unique in its data set.
        subject: the person (several cases may be one); never a real identity.
        dataset: name of the data set: the folder's name, or the public set's.
        layout: the member of `datasets/` that read it.
        modality: "CT", "MR" or "".
        images: names of the image files used, relative to the data set's root, one a channel.
        structures: what has a reference.
        load: reads the volume.
        load_masks: reads the reference masks of some structures, bool [D, H, W] each, on the volume's grid.
        quality: "gold", "silver", "template" or "unknown": how the reference was made.
        licence: of the data, as stated.
        notes: what a report should say beside this case.
        ignore: value of voxels that must not be scored, or None.
        derived: what can be made of `structures` but is not listed: the unions of left and right.
        facts: what a report tells cases apart by: "scanner" in words, and "anatomy": "usual", or what is rare about it
            ("after surgery", "missing organ", "doubled organ", "implant"); what nobody looked for is left out.
        broken: why it cannot be listed, "" if it can; such a case has no structures, and reading it raises the reason.
    """

    id: str
    subject: str
    dataset: str
    layout: str
    modality: str
    images: tuple[str, ...]
    structures: tuple[Structure, ...]
    load: Callable[[], Volume] = field(repr=False)
    load_masks: Callable[[tuple[Structure, ...]], list[Array]] = field(repr=False)
    quality: str = "unknown"
    licence: str = ""
    notes: tuple[str, ...] = ()
    ignore: int | None = None
    derived: tuple[Structure, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    broken: str = ""

    def volume(self) -> Volume:
        """The image. [C, D, H, W] on the file's own axes, slowest first."""
        return self.load()

    def structure(self, name: str) -> Structure | None:
        """The structure of that name (common or raw), listed or derived, or None."""
        every = (*self.structures, *self.derived)
        return next((s for s in every if name == s.name), None) or next((s for s in every if name == s.raw), None)

    def targets(self, names: tuple[str, ...], grid: Grid) -> list[Target]:
        """References by name, on the volume's grid; a union carries its sides as parts.

        Raises:
            KeyError: a name that this case does not have.
        """
        wanted = {name: self.structure(name) for name in names}
        missing = [name for name, found in wanted.items() if found is None]
        if missing:
            raise KeyError(f"case {self.id} has no {', '.join(missing)}")
        chosen = [s for s in wanted.values() if s is not None]
        sides = [side for s in chosen if s.sides for n in s.sides if (side := self.structure(n))]
        masks = dict(zip([s.name for s in chosen + sides], self.load_masks(tuple(chosen + sides)), strict=True))
        return [self._target(s, masks, grid) for s in chosen]

    def _target(self, structure: Structure, masks: dict[str, Array], grid: Grid) -> Target:
        parts = None
        if structure.sides and all(self.structure(n) for n in structure.sides):
            left, right = (Target(n, _frozen(masks[n]), grid) for n in structure.sides)
            parts = (left, right)
        return Target(structure.name, _frozen(masks[structure.name]), grid, parts)


def _frozen(mask: Array) -> Array:
    mask = np.asarray(mask, dtype=bool)
    if mask.flags.writeable:
        mask = mask.view()
        mask.setflags(write=False)
    return mask
