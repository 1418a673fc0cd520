"""Which two ways of a run are set against each other: the generalist and the specialist that were asked the same."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from segwise.decide import called
from segwise.decide.measured import Measured, shared
from segwise.errors import SpecError
from segwise.report.statistics import subjects_needed

KINDS = {"specialist": ("specialist",), "generalist": ("generalist", "floor")}


@dataclass(frozen=True, eq=False, kw_only=True)
class Duel:
    """A generalist and a specialist on the targets that both were asked for."""

    generalist: Measured
    specialist: Measured
    n_targets: int


def duel(arms: Sequence[Measured], *, generalist: str = "", specialist: str = "") -> Duel | None:
    """The pair that is compared, None if no specialist shares a target with a generalist.

    Of the specialists the one with the highest mean DSC; then of the generalists (models without weights only where
    there is no other) the one with the highest mean DSC on what that specialist was asked.

    Args:
        arms: of a run.
        generalist, specialist: specs or labels that are wanted, "" for the best.

    Raises:
        SpecError: no arm of that name.
    """
    rivals = named(arms, generalist, "generalist")
    found = []
    for special in named(arms, specialist, "specialist"):
        pairs = [(pair, arm) for arm in rivals if arm is not special and (pair := shared(arm, special)) is not None]
        if pairs:
            best, _ = max(pairs, key=lambda p: (p[1].family == "generalist", p[0][0].mean, p[1].label))
            found.append((special.mean, special.label, best))
    if not found:
        return None
    one, other = max(found, key=lambda f: f[:2])[2]
    return Duel(generalist=one, specialist=other, n_targets=len(one.items))


@dataclass(frozen=True, eq=False, kw_only=True)
class Sides:
    """Who is set against whom.

    Attributes:
        first: the generalist; None for drawing by hand, where there is no pair.
        second: the specialist, or the way that is set against the hand.
        n_targets: that both were asked for.
        why: in words why there is no pair and how the second was chosen; "" where there is one.
    """

    first: Measured | None
    second: Measured
    n_targets: int
    why: str

    @property
    def labels(self) -> frozenset[str]:
        """Of the two, without the hand."""
        return frozenset(arm.label for arm in (self.first, self.second) if arm is not None)


def sides(arms: Sequence[Measured], *, generalist: str = "", specialist: str = "") -> Sides:
    """The pair of `duel`; where there is none, the way of the highest mean DSC against drawing by hand.

    Of the ways without a pair those with subjects enough to decide come first, and only those that were named.

    Raises:
        SpecError: no arm of that name, or the two names stand for each other's kind.
    """
    _apart(arms, generalist, specialist)
    pair = duel(arms, generalist=generalist, specialist=specialist)
    if pair:
        return Sides(first=pair.generalist, second=pair.specialist, n_targets=pair.n_targets, why="")
    wanted = {"specialist": specialist, "generalist": generalist}
    own = {kind: named(arms, name, kind) for kind, name in wanted.items()}
    asked = [arm for kind, name in wanted.items() if name for arm in own[kind]]
    lacking = [kind for kind in wanted if not own[kind]]
    if lacking:
        why = f"This run has no {' and no '.join(lacking)} to compare (random or unknown weights do not count)"
    elif asked:
        why = (
            "Only one way was named, and nothing of the other kind was asked for the same target"
            if len(asked) == 1
            else "Of the ways that were named no two were asked for the same target"
        )
    else:
        why = "No specialist of this run was asked for a target that a generalist was asked for too"
    chosen = "the one that was named" if asked else "the way of the highest mean DSC"
    why += f". So {chosen} is set against drawing by hand."
    needed = subjects_needed(1)
    best = max(asked or arms, key=lambda arm: (len({play.person for play in arm.plays}) >= needed, arm.mean, arm.label))
    return Sides(first=None, second=best, n_targets=len(best.items), why=why)


def _apart(arms: Sequence[Measured], generalist: str, specialist: str) -> None:
    if not generalist or not specialist:
        return
    one, other = (named(arms, name, kind) for name, kind in ((generalist, "generalist"), (specialist, "specialist")))
    if all(arm.family == "specialist" for arm in one) and not any(arm.family == "specialist" for arm in other):
        raise SpecError(
            f"--generalist {generalist} is a specialist and --specialist {specialist} is none: exchange the two"
        )


def kept(ordered: Sequence[Measured], always: Collection[str], most: int) -> list[Measured]:
    """The first of them, in their order, with those that are never cut.

    Args:
        ordered: arms in the order in which they are shown.
        always: labels of arms that are kept wherever they stand; they take the places of the last.
        most: how many are shown, at least those.
    """
    others = [arm.label for arm in ordered if arm.label not in always]
    labels = {*always, *others[: max(0, most - len(always))]}
    return [arm for arm in ordered if arm.label in labels]


def left_out(ordered: Sequence[Measured], shown: Sequence[Measured], *, by: str, always: str) -> str:
    """A sentence of how many are not shown; "" if none.

    Args:
        ordered, shown: before and after `kept`.
        by: what the order is by, in words.
        always: who is never cut, in words; "" for nobody.
    """
    n = len(ordered) - len(shown)
    if not n:
        return ""
    but = f" ({always} always shown)" if always else ""
    return f"{n} of the {len(ordered)} ways of this run {'is' if n == 1 else 'are'} not shown: the last by {by}{but}."


def named(arms: Sequence[Measured], wanted: str, kind: str) -> list[Measured]:
    """Arms by a model's spec, its bare name, its folder, or an arm's label; all of a kind of `KINDS` for "".

    Raises:
        SpecError: no arm of that name; `kind` names the option.
    """
    if not wanted:
        return [arm for arm in arms if arm.family in KINDS[kind]]
    return [arms[i] for i in called.places([(arm.model, arm.label, *arm.parts) for arm in arms], wanted, kind)]
