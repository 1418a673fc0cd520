"""The box of one slice, without a range: a propagation has to find the target's ends itself."""

from __future__ import annotations

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import middle, region

CARD = PrompterCard(
    title="Seed slice",
    summary="The tight box of the middle slice alone; where the target ends is the model's to find.",
    gives=("box",),
    source="RadioActive: BoxPropagation; MedSAM2: box on the key slice. Middle slice as LiteMedSAM",
)


def first(target: Target, seed: int, *, plane: str = "axial") -> Prompt | None:
    """The tight box, one voxel thick, of the middle slice.

    The middle slice is int((z1 - z0) / 2 + z0), z1 the last occupied slice, counted in the direction of S, P or L;
    where the target has no voxel there, the nearest occupied slice (the lower of two).

    Args:
        target: the reference.
        seed: not used.
        plane: "axial", "coronal" or "sagittal".

    Returns:
        One box mark; None for an empty reference.
    """
    found = region(target.mask, target.grid)
    return None if found is None else Prompt((found.box(*middle(list(found.slices(plane))).tight()),))


def next(target: Target, prompt: Prompt, mask: Array, seed: int, *, plane: str = "axial") -> Prompt | None:
    """None: the box is given once."""
    return None
