"""TOML → `Plan`. An error names the file, the field, what came and what was expected.

question = "Which model is best with one box?"
models = ["box-fill", {name = "litemedsam", lift = "propagate"}]     # specs, or tables of a name and its arguments
prompters = ["box2d", "clicks(n=5)"]
pairs = [{model = "geodesic", prompter = "box-points(n=5)"}]         # beside the grid of models and prompters
targets = ["liver"]                                                  # all if left out
metrics = ["overlap", "surface"]
seeds = 3
conditions = ["noise(level=3)", "spacing(mm=5)"]                     # of the image, beside the cases as they are
persons = { family = "torso", n = 6 }                                # who is made where no data are given
scenario = "small-hospital"                                          # the report tells cost and workflow in it
needs = ["several data sets"]                                        # or "targets in levels": said where data lack it
optional = ["meshnet"]                                               # left out where nothing fits it
groups = { seldom = ["celiac trunk"], common = ["liver", "spleen"] } # of targets, set against each other

[[cases]]                                                            # all if left out
case = "ct_1"
targets = ["liver", "spleen"]

[study]                                                              # what is trained first, on other subjects
models = [{model = "unet", steps = 400}, {model = "litemedsam+lora(rank=4)", steps = 200}]
fractions = [0.1, 1.0]
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segwise import spec
from segwise.errors import PlanError, SpecError
from segwise.records.types import Choice, Pair, Plan, Study, Training

FIELDS: tuple[str, ...] = ("question", "models", "prompters", "pairs", "targets", "cases", "metrics", "seeds", "study")
FIELDS += ("conditions", "persons", "scenario", "needs", "optional", "groups")
DATA_SETS, LEVELS = NEEDS = "several data sets", "targets in levels"
AS_IS = "as-is"


def read(path: Path | str) -> Plan:
    """A plan from a file.

    Raises:
        PlanError: the file cannot be read, is not TOML, or a field is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path}: cannot be read ({error}); expected a plan in TOML") from error
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path.name}: not TOML: {error}") from error
    return build(content, name=path.stem, source=path.name)


def build(content: Mapping[str, Any], *, name: str, source: str) -> Plan:
    """A plan from values; `source` begins the messages.

    Raises:
        PlanError: a field is unknown, missing or wrong.
    """
    for key in content:
        if key not in FIELDS:
            close = difflib.get_close_matches(key, FIELDS, n=1)
            hint = f'; did you mean "{close[0]}"?' if close else f"; there are {', '.join(FIELDS)}"
            raise PlanError(f"{source}: {key}: no such field{hint}")
    plan = Plan(
        name=name,
        question=_text(content.get("question", ""), f"{source}: question"),
        models=tuple(_specs(content.get("models", []), f"{source}: models")),
        prompters=tuple(_specs(content.get("prompters", []), f"{source}: prompters")),
        pairs=_pairs(content.get("pairs", []), f"{source}: pairs"),
        targets=_texts(content.get("targets", []), f"{source}: targets"),
        cases=_cases(content.get("cases", []), f"{source}: cases"),
        metrics=tuple(_specs(content.get("metrics", Plan.metrics), f"{source}: metrics")),
        seeds=_count(content.get("seeds", 1), f"{source}: seeds"),
        study=_study(content["study"], f"{source}: study") if "study" in content else None,
        conditions=tuple(c for c in _specs(content.get("conditions", []), f"{source}: conditions") if c != AS_IS),
        persons=_families(content.get("persons", []), f"{source}: persons"),
        scenario=_text(content.get("scenario", ""), f"{source}: scenario"),
        needs=_texts(content.get("needs", []), f"{source}: needs"),
        optional=tuple(_specs(content.get("optional", []), f"{source}: optional")),
        groups=_groups(content.get("groups", {}), f"{source}: groups"),
    )
    if not plan.models and not plan.pairs and plan.study is None:
        raise PlanError(f"{source}: models: nothing came, expected at least one model")
    if plan.study is not None:
        _beside(plan.study, plan, source)
    if strange := set(plan.needs) - set(NEEDS):
        raise PlanError(f"{source}: needs: {', '.join(sorted(strange))}, expected some of {', '.join(NEEDS)}")
    if strange := set(plan.optional) - {*plan.models, *(pair.model for pair in plan.pairs)}:
        raise PlanError(f"{source}: optional: {', '.join(sorted(strange))}, expected models of the plan")
    if plan.targets and (strange := {t for _, own in plan.groups for t in own} - set(plan.targets)):
        raise PlanError(f"{source}: groups: {', '.join(sorted(strange))}, expected some of the targets of the plan")
    if not plan.metrics:
        raise PlanError(f"{source}: metrics: nothing came, expected at least one metric")
    return plan


def _groups(value: Any, where: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if not isinstance(value, Mapping) or len(value) == 1:  # none at all is a plan without groups
        raise PlanError(f"{where}: {value!r}, expected two or more names with a list of targets each")
    found = tuple((str(name), _texts(targets, f"{where}.{name}")) for name, targets in value.items())
    listed = [target for _, targets in found for target in targets]
    if twice := sorted({target for target in listed if listed.count(target) > 1}):
        raise PlanError(f"{where}: {', '.join(twice)} in two of them, expected every target in one group")
    if empty := [name for name, targets in found if not targets]:
        raise PlanError(f"{where}.{empty[0]}: nothing came, expected at least one target")
    return found


def _beside(study: Study, plan: Plan, source: str) -> None:
    """What stands beside a study: persons of other families are only tested."""
    if plan.cases:
        raise PlanError(f"{source}: cases: a study says itself who is tested; leave it out, see study.test")
    families = [family for family, _ in plan.persons]
    if families and (study.folds or study.persons[0] in ("", *families)):
        raise PlanError(
            f"{source}: persons: {', '.join(families)}: persons beside a study are only tested; expected study.persons "
            "of another family, and no folds"
        )


STUDY = ("models", "fractions", "seeds", "test", "folds", "persons", "generated", "modality")
TRAINING = ("model", "steps", "rate", "batch", "on")
SOURCES = ("real", "generated", "both")


def _study(value: Any, where: str) -> Study:
    table = _table(value, where, STUDY, ("models",))
    models = []
    for i, item in enumerate(_list(table["models"], f"{where}.models")):
        here = f"{where}.models[{i}]"
        if isinstance(item, str):
            models.append(Training(model=_spec(item, here)))
            continue
        own = _table(item, here, TRAINING, ("model",))
        models.append(
            Training(
                model=_spec(own["model"], f"{here}.model"),
                steps=_count(own.get("steps", Training.steps), f"{here}.steps"),
                rate=_share(own.get("rate", 0.0), f"{here}.rate", most=1.0, least=0.0),
                batch=_count(own.get("batch", Training.batch), f"{here}.batch"),
                on=_text(own.get("on", Training.on), f"{here}.on"),
            )
        )
        if models[-1].on not in SOURCES:
            raise PlanError(f'{here}.on: "{models[-1].on}", expected one of {", ".join(SOURCES)}')
        if models[-1].on != "real" and "generated" not in table:
            raise PlanError(f"{here}.on: {models[-1].on}, but {where}.generated says no family and number of persons")
    if not models:
        raise PlanError(f"{where}.models: nothing came, expected at least one model to train")
    fractions = _list(table.get("fractions", [1.0]), f"{where}.fractions")
    found = tuple(_share(item, f"{where}.fractions[{i}]") for i, item in enumerate(fractions))
    if not found or len(set(found)) < len(found):
        raise PlanError(f"{where}.fractions: {list(found)}, expected one or more, each once")
    folds = table.get("folds", 0)
    if isinstance(folds, bool) or not isinstance(folds, int) or folds in (1,) or folds < -1:
        raise PlanError(f"{where}.folds: {folds!r} is not 0 (none), 2 or more, or -1 (one a subject)")
    return Study(
        models=tuple(models),
        fractions=tuple(sorted(found)),
        seeds=_count(table.get("seeds", 1), f"{where}.seeds"),
        test=_share(table.get("test", Study.test), f"{where}.test", most=0.9),
        folds=folds,
        persons=_persons(table.get("persons"), f"{where}.persons"),
        generated=_persons(table.get("generated"), f"{where}.generated"),
        modality=_text(table.get("modality", ""), f"{where}.modality"),
    )


def _persons(value: Any, where: str) -> tuple[str, int]:
    if value is None:
        return "", 0
    table = _table(value, where, ("family", "n"), ("family", "n"))
    return _text(table["family"], f"{where}.family"), _count(table["n"], f"{where}.n")


def _families(value: Any, where: str) -> tuple[tuple[str, int], ...]:
    tables = [value] if isinstance(value, Mapping) else _list(value, where)
    found = tuple(_persons(item, f"{where}[{i}]") for i, item in enumerate(tables))
    if len({family for family, _ in found}) < len(found):
        raise PlanError(f"{where}: {', '.join(family for family, _ in found)}: expected every family once")
    return found


def _share(value: Any, where: str, *, least: float = 1e-6, most: float = 1.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise PlanError(f"{where}: {value!r} is not a number {'above' if least else 'from'} 0 and up to {most:g}")
    return float(value)


def _specs(value: Any, where: str) -> list[str]:
    found = [_spec(item, f"{where}[{i}]") for i, item in enumerate(_list(value, where))]
    for i, item in enumerate(found):
        if item in found[:i]:
            raise PlanError(f'{where}[{i}]: "{item}" came twice, expected once')
    return found


def _spec(value: Any, where: str) -> str:
    if isinstance(value, Mapping):
        args = {key: item for key, item in value.items() if key != "name"}
        for key, item in args.items():
            if not isinstance(item, int | float | bool | str):
                raise PlanError(f"{where}.{key}: {item!r} is not a number, a word, true or false")
        text = _text(value.get("name", ""), f"{where}.name")
        if not text:
            raise PlanError(f'{where}.name: nothing came, expected a name as in {{name = "sam", size = "b"}}')
        base = _parsed(text, f"{where}.name")
        return str(spec.Spec(base.name, {**base.args, **args}, base.plus))
    return str(_parsed(_text(value, where), where))


def _parsed(text: str, where: str) -> spec.Spec:
    try:
        return spec.parse(text)
    except SpecError as error:
        raise PlanError(f"{where}: {error}") from error


def _pairs(value: Any, where: str) -> tuple[Pair, ...]:
    found = []
    for i, item in enumerate(_list(value, where)):
        table = _table(item, f"{where}[{i}]", ("model", "prompter"), ("model", "prompter"))
        model, prompter = (_spec(table[key], f"{where}[{i}].{key}") for key in ("model", "prompter"))
        found.append(Pair(model=model, prompter=prompter))
    return tuple(found)


def _cases(value: Any, where: str) -> tuple[Choice, ...]:
    found: list[Choice] = []
    for i, item in enumerate(_list(value, where)):
        if isinstance(item, str):
            found.append(Choice(case=item))
            continue
        table = _table(item, f"{where}[{i}]", ("case", "targets"), ("case",))
        targets = _texts(table.get("targets", []), f"{where}[{i}].targets")
        found.append(Choice(case=_text(table["case"], f"{where}[{i}].case"), targets=targets))
    return tuple(found)


def _table(value: Any, where: str, fields: tuple[str, ...], needed: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PlanError(f"{where}: {value!r} is not a table of {', '.join(fields)}")
    for key in value:
        if key not in fields:
            raise PlanError(f"{where}.{key}: no such field; there are {', '.join(fields)}")
    for key in needed:
        if key not in value:
            raise PlanError(f"{where}.{key}: nothing came, expected a value")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise PlanError(f"{where}: {value!r} is not a list")
    return list(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise PlanError(f"{where}: {value!r} is not a text in quotes")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(item, f"{where}[{i}]") for i, item in enumerate(_list(value, where)))


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PlanError(f"{where}: {value!r} is not a whole number")
    if value < 1:
        raise PlanError(f"{where}: {value} is not ≥ 1")
    return value
