"""Cross-validated models: the folds of one recipe are one arm, each subject tested by a model that never saw it.

A fold's model alone stands on one subject or a few, and was asked about no other fold's: told apart, nothing could be
compared. Folds are put together only if each was tested on subjects of its own that it was not trained on.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from segwise.report.specs import parsed
from segwise.spec import Value

if TYPE_CHECKING:
    from segwise.report.gather import ArmKey, Outcome

ALL = "folds"  # in the place of a fold's number


def together(by_arm: Mapping[ArmKey, Sequence[Outcome]]) -> dict[ArmKey, list[Outcome]]:
    """The outcomes of every arm, those of the folds of one recipe under one name with one card."""
    groups: dict[tuple[str, ...], list[ArmKey]] = defaultdict(list)
    for key, outcomes in by_arm.items():
        learned = _learned(outcomes)
        is_fold = isinstance(learned.get("fold"), int) and learned.get("recipe")
        said = [str(learned.get(name, "")) for name in ("recipe", "data", "model")] if is_fold else [key[0]]
        groups[key[1], *said].append(key)
    found: dict[ArmKey, list[Outcome]] = {}
    for keys in groups.values():
        if len(keys) > 1 and _apart([by_arm[key] for key in keys]):
            name, outcomes = _one([key[0] for key in keys], [by_arm[key] for key in keys])
            found[name, keys[0][1]] = outcomes
        else:
            found |= {key: list(by_arm[key]) for key in keys}
    return found


def _one(models: Sequence[str], folds: Sequence[Sequence[Outcome]]) -> tuple[str, list[Outcome]]:
    """Name and outcomes of folds put together."""
    each = [_learned(outcomes) for outcomes in folds]
    first = each[0]
    known = {key: fmean(map(float, v)) for key in ("subjects", "seconds") if (v := [o[key] for o in each if key in o])}
    told = {**first, **known, "people": (), "folds": len(folds)}
    told["subjects"] = round(told.get("subjects", 0))
    name = _without_number(models[0], f"{first['recipe']}-f{first['fold']}", f"{first['recipe']}-{ALL}")
    outcomes = [dataclasses.replace(o, last=_renamed(o.last, name, told)) for one in folds for o in one]
    return name, outcomes


def _renamed(record: Any, name: str, learned: Mapping[str, Any]) -> Any:
    provenance = dict(record.provenance)
    if isinstance(card := provenance.get("card"), Mapping):
        provenance["card"] = {**card, "learned": learned}
    return dataclasses.replace(record, model=name, provenance=provenance)


def _without_number(model: str, own: str, shared: str) -> str:
    """A model's spec with the name of one fold's folder replaced."""
    spec = parsed(model)
    base, *plus = (
        dataclasses.replace(part, args={key: _ending(value, own, shared) for key, value in part.args.items()})
        for part in (spec.base, *spec.plus)
    )
    return str(dataclasses.replace(base, plus=tuple(plus)))


def _ending(value: Value, own: str, shared: str) -> Value:
    return value.removesuffix(own) + shared if isinstance(value, str) and value.endswith(own) else value


def _apart(folds: Sequence[Sequence[Outcome]]) -> bool:
    """Every fold was tested on subjects of its own, whom it was not trained on."""
    tested = [{o.last.subject for o in outcomes} for outcomes in folds]
    trained = [set(map(str, _learned(outcomes).get("people") or ())) for outcomes in folds]
    alone = sum(map(len, tested)) == len(set().union(*tested))
    return alone and not any(mine & seen for mine, seen in zip(tested, trained, strict=True))


def _learned(outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    for outcome in outcomes:
        card = outcome.last.provenance.get("card")
        learned = card.get("learned") if isinstance(card, Mapping) else None
        if isinstance(learned, Mapping) and learned:
            return learned
    return {}
