"""A 3D box as wide as the middle slice and as long as the target: the start of a propagation with a range."""

from __future__ import annotations

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt
from segwise.prompters._places import middle, region

CARD = PrompterCard(
    title="Middle-slice box with range",
    summary="A 3D box with the tight height and width of the middle slice over the target's full range of slices.",
    gives=("box",),
    source="LiteMedSAM, CVPR24_LiteMedSAM_infer.py: 3D box of z range and middle-slice box",
)


def first(target: Target, seed: int, *, plane: str = "axial") -> Prompt | None:
    """One box: rows and columns tight on the middle slice, all slices from the first to the last occupied one.

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
    if found is None:
        return None
    pieces = list(found.slices(plane))
    chosen = middle(pieces)
    low, high = chosen.tight()
    low[chosen.axis], high[chosen.axis] = pieces[0].number, pieces[-1].number + 1
    return Prompt((found.box(low, high),))


def next(target: Target, prompt: Prompt, mask: Array, seed: int, *, plane: str = "axial") -> Prompt | None:
    """None: the box is given once."""
    return None
