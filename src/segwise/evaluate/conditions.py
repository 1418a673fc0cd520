"""Conditions in words, `noise(level=3)` or `without(target=spleen)+noise(level=3)`, and what they do to a case."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import Any

from segwise import spec
from segwise.case import Case
from segwise.errors import SpecError
from segwise.evaluate import references
from segwise.spec import Spec, seed_of
from segwise.synth.conditions import AXES, Step, conditioned


def under(case: Case, condition: str) -> Case:
    """The case under a condition; itself for "". What is drawn depends on the case and the condition's own `seed=`."""
    if not condition:
        return case
    steps = []
    for step in (_step(part, case.id) for part in _parts(condition)):
        names = references.matching(case, step.value) if isinstance(step.value, str) else ()
        steps += [replace(step, value=name) for name in names] or [step]  # a union goes with both of its sides
    return conditioned(case, steps)


def check(condition: str) -> None:
    """Refuse what is no condition.

    Raises:
        SpecError: an unknown condition or argument, or a wrong value.
    """
    for part in _parts(condition):
        _step(part, "")


def removed(condition: str) -> tuple[str, ...]:
    """The targets that a condition takes away by name."""
    steps = [_step(part, "") for part in _parts(condition)]
    return tuple(step.value for step in steps if isinstance(step.value, str))


def axis_of(condition: str) -> dict[str, Any]:
    """Where a condition lies, for a record: {} for the case as it is.

    Returns:
        kind: the condition without its number; before: what was done first, "" for nothing; at: the place on the axis,
        the greater the worse; start: where the case without it lies, None if that is not known; unit. A condition that
        has no number has kind and before alone.
    """
    if not condition:
        return {}
    *before, last = _parts(condition)
    axis = AXES[last.name]
    if axis is None:
        return {"kind": str(last), "before": "+".join(map(str, before))}
    place = axis.place(float(_step(last, "").value))
    rest = Spec(last.name, {key: value for key, value in last.args.items() if key != axis.argument})
    known = {"kind": str(rest), "before": "+".join(map(str, before))}
    return {**known, "at": place, "start": axis.start, "unit": axis.unit}


def _parts(condition: str) -> list[Spec]:
    whole = spec.parse(condition)
    return [whole.base, *whole.plus]


def _step(part: Spec, case: str) -> Step:
    """What one part does to a case of that id.

    Raises:
        SpecError: as `check`.
    """
    if part.name not in AXES:
        near = difflib.get_close_matches(part.name, AXES, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(AXES)}"
        raise SpecError(f'no condition "{part.name}"; {hint}')
    axis = AXES[part.name]
    argument = "target" if axis is None else axis.argument
    if extra := set(part.args) - {argument, "seed"}:
        raise SpecError(f'{part}: {part.name} has no argument "{min(extra)}"; it takes {argument} and seed')
    value, seed = part.args.get(argument), part.args.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SpecError(f"{part}: seed is {seed!r}, expected a whole number")
    drawn = seed_of("condition", case, part.name, seed) % 2**32
    if axis is None:
        if not isinstance(value, str) or not value:
            raise SpecError(f"{part}: target is {value!r}, expected the name of a structure, as without(target=spleen)")
        return Step(part.name, value, drawn)
    kind = int if axis.whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not axis.low <= value <= axis.high:
        what = "a whole number" if axis.whole else "a number"
        raise SpecError(f"{part}: {argument} is {value!r}, expected {what} from {axis.low:g} to {axis.high:g}")
    return Step(part.name, float(value), drawn)
