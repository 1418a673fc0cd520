"""How often something is so: draws and conditions of a target are one, targets are clustered within persons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from segwise.report.outcome import Item

MOST = 0.5  # a target counts if it is so in more than this share of its answers


@dataclass(frozen=True)
class Tally:
    """Answers counted as targets and as persons.

    Attributes:
        n: targets for which it is so in most answers; n_targets: of how many.
        n_persons: whose targets they are.
        n_answers: the most that one target has: its draws, under every condition.
        share: mean over persons of the mean over their targets of the share of answers, nan without any.
    """

    n: int
    n_targets: int
    n_persons: int
    n_answers: int
    share: float


def tally(found: Iterable[tuple[str, Item, bool]]) -> Tally:
    """Counts (person, target, whether it is so), one an answer."""
    by_item: dict[tuple[str, Item], list[bool]] = defaultdict(list)
    for person, item, so in found:
        by_item[person, item].append(so)
    by_person: dict[str, list[float]] = defaultdict(list)
    for (person, _), answers in by_item.items():
        by_person[person].append(fmean(answers))
    return Tally(
        n=sum(share > MOST for shares in by_person.values() for share in shares),
        n_targets=len(by_item),
        n_persons=len(by_person),
        n_answers=max(map(len, by_item.values()), default=0),
        share=fmean(map(fmean, by_person.values())) if by_person else float("nan"),
    )
