"""The target's name in words: how a specialist or a text-driven model is asked."""

from __future__ import annotations

from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt, Text

CARD = PrompterCard(
    title="Name",
    summary="The target's common name as text; asked of absent targets too.",
    gives=("text",),
    source="Text prompts of SegVol, BiomedParse, SAT; a specialist's closed list is asked the same way",
)


def first(target: Target, seed: int) -> Prompt | None:
    """The name; the reference's voxels are not looked at, so an absent target is asked for as well."""
    return Prompt((Text(target.name),))


def next(target: Target, prompt: Prompt, mask: Array, seed: int) -> Prompt | None:
    """None: a name is said once."""
    return None
