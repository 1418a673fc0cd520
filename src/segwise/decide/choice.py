"""Which two ways of a run are set against each other: the generalist and the specialist that were asked the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segwise.decide.measured import Measured, shared
from segwise.errors import SpecError

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


def kept(ordered: Sequence[Measured], pair: Duel | None, most: int) -> list[Measured]:
    """The first of them, in their order, with the two of the duel, which are never cut.

    Args:
        ordered: arms in the order in which they are shown.
        pair: who is compared; where they stand further down they take the places of the last.
        most: how many are shown, at least the two.
    """
    compared = {pair.generalist.label, pair.specialist.label} if pair else set()
    others = [arm.label for arm in ordered if arm.label not in compared]
    labels = compared | set(others[: max(0, most - len(compared))])
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
    """Arms by a model's spec, its bare name or an arm's label; all of a kind of `KINDS` for "".

    Raises:
        SpecError: no arm of that name; `kind` names the option.
    """
    if not wanted:
        return [arm for arm in arms if arm.family in KINDS[kind]]
    found = [arm for arm in arms if wanted in (arm.model, arm.label, arm.model.split("(")[0])]
    if not found:
        there = ", ".join(sorted({arm.model for arm in arms}))
        raise SpecError(f'--{kind} "{wanted}": no such model in this run; there are {there}')
    return found
