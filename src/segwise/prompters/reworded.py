"""The target's name in other words, or with spelling mistakes: how people and data sets write what they mean."""

from __future__ import annotations

from typing import Literal

import numpy as np

from segwise import anatomy
from segwise.card import PrompterCard
from segwise.case import Target
from segwise.geometry import Array
from segwise.prompt import Prompt, Text
from segwise.prompters._places import at_least

CARD = PrompterCard(
    title="Reworded name",
    summary="A synonym of the target's name, or the name with so many wrong letters; asked of absent targets too.",
    gives=("text",),
    draws=True,
    source="Synonyms of this project's vocabulary; mistakes as typists make them (a letter lost, doubled or swapped)",
)


def first(
    target: Target, seed: int, *, how: Literal["synonym", "misspelt"] = "synonym", letters: int = 1
) -> Prompt | None:
    """The name said otherwise; the reference's voxels are not looked at.

    Args:
        target: the reference.
        seed: of the draw.
        how: "synonym": one of the vocabulary, or where it has none the name as data sets write it ("Kidney_Left",
            "LEFT KIDNEY");
            "misspelt": the name with mistakes.
        letters: mistakes; a letter is lost, doubled or swapped with the next one. Used with how=misspelt.

    Raises:
        SpecError: letters below 1.
    """
    at_least("reworded: letters", letters, 1)
    rng = np.random.default_rng(seed)
    if how == "misspelt":
        return Prompt((Text(_misspelt(target.name, letters, rng)),))
    known = anatomy.synonyms(target.name) or _as_labels(target.name)
    return Prompt((Text(known[int(rng.integers(len(known)))]),))


def next(
    target: Target,
    prompt: Prompt,
    mask: Array,
    seed: int,
    *,
    how: Literal["synonym", "misspelt"] = "synonym",
    letters: int = 1,
) -> Prompt | None:
    """None: a name is said once."""
    return None


def _as_labels(name: str) -> tuple[str, ...]:
    """ "left kidney" -> "Kidney_Left" and "LEFT KIDNEY"."""
    return "_".join(word.capitalize() for word in reversed(name.split())), name.upper()


def _misspelt(name: str, letters: int, rng: np.random.Generator) -> str:
    """The name with a mistake at each of so many places; never the name itself."""
    words = name
    for _ in range(letters):
        places = [i for i in range(len(words) - 1) if words[i].isalpha() and words[i + 1].isalpha()]
        i = places[int(rng.integers(len(places)))] if places else 0
        kind = int(rng.integers(3))
        wrong = (words[:i] + words[i + 1 :], words[:i] + words[i] + words[i:])[kind % 2]
        if kind == 2 and words[i : i + 1] != words[i + 1 : i + 2]:
            wrong = words[:i] + words[i + 1] + words[i] + words[i + 2 :]
        words = wrong
    return words if words != name else name + name[-1]
