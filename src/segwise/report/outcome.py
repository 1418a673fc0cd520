"""What became of one target that an arm was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from segwise.records.types import Record

ArmKey = tuple[str, str]  # model, prompter
Item = tuple[str, str, str]  # data set, case, target


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one target of a task: its last round, never its best one.

    Attributes:
        last: the record of the last round.
        union: it was made of what the arm gave for left and right.
        values: measure -> value, None if undefined; reasons: measure -> why.
        rounds: (interactions, primary value) of each round in order.
        curve: measures of all rounds together.
        seconds: by stage, over all rounds; {} for a union.
        undefined: it is done, yet its primary measure has no value.
    """

    last: Record
    union: bool
    values: dict[str, float | None]
    reasons: dict[str, str]
    rounds: tuple[tuple[int, float | None], ...]
    curve: dict[str, float | None]
    seconds: dict[str, float]
    undefined: bool

    @property
    def item(self) -> Item:
        """What is compared between arms."""
        return self.last.dataset, self.last.case, self.last.target

    @property
    def person(self) -> str:
        """Whose scan it is."""
        return f"{self.last.dataset}\x1f{self.last.subject}"

    @property
    def status(self) -> str:
        """ "done", "undefined", "failed" or "skipped"."""
        return "undefined" if self.undefined else self.last.status
