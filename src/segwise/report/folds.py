"""Repeated trainings of one recipe are one arm: folds that each test other subjects, and draws of what is drawn.

A fold's model alone stands on one subject or a few, and was asked about no other fold's: told apart, nothing could be
compared. Draws told apart would let the luckiest one stand for the recipe; together each target counts with its mean
over them. Models are put together only if none was tested on a subject that it was trained on.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from segwise.errors import SpecError
from segwise.report.outcome import ArmKey, Outcome
from segwise.report.specs import parsed
from segwise.spec import Value

FOLDS, DRAWS = "folds", "draws"  # in the place of a fold's and a draw's number


def together(by_arm: Mapping[ArmKey, Sequence[Outcome]]) -> dict[ArmKey, list[Outcome]]:
    """The outcomes of every arm, those of the folds and draws of one recipe under one name with one card."""
    groups: dict[tuple[str, ...], list[ArmKey]] = defaultdict(list)
    for key, outcomes in by_arm.items():
        learned = _learned(outcomes)
        name = _shared(key[0], learned)
        said = [str(learned.get(what, "")) for what in ("data", "model")] if name != key[0] else []
        groups[key[1], name, *said].append(key)
    found: dict[ArmKey, list[Outcome]] = {}
    for (_, name, *_), keys in groups.items():
        if len(keys) > 1 and _apart([by_arm[key] for key in keys]):
            shared, outcomes = _one(name, [key[0] for key in keys], [by_arm[key] for key in keys])
            found[shared, keys[0][1]] = outcomes
        else:
            found |= {key: list(by_arm[key]) for key in keys}
    return found


def _one(name: str, specs: Sequence[str], models: Sequence[Sequence[Outcome]]) -> tuple[str, list[Outcome]]:
    """Name and outcomes of models put together."""
    each = [_learned(outcomes) for outcomes in models]
    known = {key: fmean(map(float, v)) for key in ("subjects", "seconds") if (v := [o[key] for o in each if key in o])}
    told = {**each[0], **known, "models": tuple(specs)}
    told |= {"peak_gb": max(float(o["peak_gb"]) for o in each if "peak_gb" in o)} if "peak_gb" in told else {}
    told["subjects"] = round(told.get("subjects", 0))
    n_folds, n_draws = (len({one.get(key) for one in each}) for key in ("fold", "draw"))
    told |= {DRAWS: n_draws} if n_draws > 1 else {}
    if n_folds > 1:
        told |= {FOLDS: n_folds, "people": ()}
    else:
        told["people"] = tuple(sorted({str(one) for learned in each for one in learned.get("people") or ()}))
        name = _renamed(name, FOLDS, DRAWS)
    return name, [dataclasses.replace(o, last=_told(o.last, name, told)) for one in models for o in one]


def _told(record: Any, name: str, learned: Mapping[str, Any]) -> Any:
    provenance = dict(record.provenance)
    if isinstance(card := provenance.get("card"), Mapping):
        provenance["card"] = {**card, "learned": learned}
    return dataclasses.replace(record, model=name, provenance=provenance)


def _shared(model: str, learned: Mapping[str, Any]) -> str:
    """A model's spec with one name in place of the folders of all that share its recipe; itself without a recipe."""
    if not learned.get("recipe"):
        return model
    recipe = re.escape(str(learned["recipe"]))
    return _renamed(model, rf"{recipe}(-s\d+)?(-f\d+)?", f"{learned['recipe']}-{FOLDS}", whole=True)


def _renamed(model: str, pattern: str, ending: str, *, whole: bool = False) -> str:
    """A model's spec with the end of each path in it (or the whole of its last part) exchanged."""
    find = re.compile(rf"(?:(?<=/)|^){pattern}$" if whole else rf"{pattern}$")

    def exchanged(value: Value) -> Value:
        return find.sub(lambda _: ending, value) if isinstance(value, str) else value

    try:
        spec = parsed(model)
    except SpecError:
        return model
    base, *plus = (
        dataclasses.replace(part, args={key: exchanged(value) for key, value in part.args.items()})
        for part in (spec.base, *spec.plus)
    )
    return str(dataclasses.replace(base, plus=tuple(plus)))


def _apart(models: Sequence[Sequence[Outcome]]) -> bool:
    """Nobody was tested by a model that was trained on them, nor by two folds of one draw."""
    of_draw: dict[object, list[set[tuple[str, str]]]] = defaultdict(list)
    for outcomes in models:
        learned, tested = _learned(outcomes), {(o.last.dataset, o.last.subject) for o in outcomes}
        if tested & {(learned.get("data"), str(one)) for one in learned.get("people") or ()}:
            return False
        of_draw[learned.get("draw")].append(tested)
    return all(sum(map(len, folds)) == len(set().union(*folds)) for folds in of_draw.values())


def _learned(outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    for outcome in outcomes:
        card = outcome.last.provenance.get("card")
        learned = card.get("learned") if isinstance(card, Mapping) else None
        if isinstance(learned, Mapping) and learned:
            return learned
    return {}
