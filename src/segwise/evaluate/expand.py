"""Plan → tasks: pure. Cards and names only; no voxel, no weight, nothing computed.

Every model meets every prompter whose kinds of mark it takes all of; a model that takes only text is asked by name,
once. What does not fit is left out with its reason, and said before anything runs.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segwise import anatomy, assemble
from segwise.assemble import ModelInfo
from segwise.case import Case
from segwise.errors import CatalogError, PlanError, WeightsError
from segwise.evaluate import conditions, faults, references
from segwise.evaluate.sources import Source
from segwise.records.types import Plan, Record, Task, record_of

NAME = "name"  # the prompter of a model that takes only text
TEXT = frozenset({"text"})


@dataclass(frozen=True)
class Expansion:
    """What a plan comes to on some data.

    Attributes:
        tasks: ordered by model, then case, so that weights and features are shared.
        skipped: a record for each target that a pair leaves out; one without target for a case that cannot be read.
        left_out: reason -> how many targets (or pairs, where no target was reached); 1 for a case that cannot be read.
    """

    tasks: tuple[Task, ...]
    skipped: tuple[Record, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class _Arm:
    """A model with a prompter."""

    info: ModelInfo
    prompter: str
    draws: bool
    misfit: str


@dataclass
class _Found:
    """What expansion collects."""

    tasks: list[Task] = field(default_factory=list)
    skipped: list[Record] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def expand(plan: Plan, sources: Sequence[Source]) -> Expansion:
    """Tasks of a plan on data.

    Raises:
        PlanError: a spec is wrong (all of them together), a case or target is nowhere, or some model has no task.
    """
    arms = _arms(plan)
    wanted = _wanted(plan, sources)
    _there_to_remove(plan, sources)
    _known_in_groups(plan, sources)
    found = _Found()
    for arm in arms:
        for source in sources:
            for case in source.cases:
                if case.broken and (source.root, case.id) in wanted:
                    _unread(found, arm, source, case)
                elif names := wanted.get((source.root, case.id)):
                    _meet(found, arm, source, case, names, plan)
    _all_have_tasks(plan, arms, found)
    order = list(dict.fromkeys(assemble.base_name(arm.info.spec) for arm in arms))
    places = {(str(root), case): i for i, (root, case) in enumerate(wanted)}
    under = {text: i for i, text in enumerate(("", *plan.conditions))}

    def place(task: Task) -> tuple[int, int, int]:
        return order.index(assemble.base_name(task.model)), places[task.root, task.case], under[task.condition]

    tasks = sorted(found.tasks, key=place)
    return Expansion(tuple(tasks), tuple(found.skipped), dict(found.left_out))


def check(plan: Plan) -> None:
    """Refuse what needs no data to be seen: models, prompters, metrics and conditions that are none.

    Raises:
        PlanError: all of them together.
    """
    _arms(plan)


def _arms(plan: Plan) -> list[_Arm]:
    """Every model with every prompter that it can take, and those pairs that it cannot, with the reason."""
    errors: list[str] = []
    infos: dict[str, ModelInfo] = {}
    for where, text in [
        *((f"models[{i}]", m) for i, m in enumerate(plan.models)),
        *((f"pairs[{i}].model", pair.model) for i, pair in enumerate(plan.pairs)),
    ]:
        try:
            infos[text] = assemble.model_info(text)
        except (CatalogError, WeightsError) as error:
            errors.append(f"{where}: {error}")
    for where, text in [
        *((f"prompters[{i}]", p) for i, p in enumerate(plan.prompters)),
        *((f"pairs[{i}].prompter", pair.prompter) for i, pair in enumerate(plan.pairs)),
    ]:
        try:
            assemble.prompter_info(text)
            errors += [f"{where}: {said}" for said in filter(None, [faults.of_prompter(text)])]
        except CatalogError as error:
            errors.append(f"{where}: {error}")
    for i, text in enumerate(plan.metrics):
        try:
            assemble.metric_info(text)
            errors += [f"metrics[{i}]: {said}" for said in filter(None, [faults.of_metric(text)])]
        except CatalogError as error:
            errors.append(f"metrics[{i}]: {error}")
    for i, text in enumerate(plan.conditions):
        try:
            conditions.check(text)
        except CatalogError as error:
            errors.append(f"conditions[{i}]: {error}")
    if errors:
        raise PlanError(f"{plan.name}: " + f"\n{plan.name}: ".join(dict.fromkeys(errors)))
    grid = [(model, prompter) for model in plan.models for prompter in plan.prompters or _none(infos[model])]
    both = [*grid, *((pair.model, pair.prompter) for pair in plan.pairs)]
    found = {(arm.info.spec, arm.prompter): arm for arm in (_arm(infos[m], p) for m, p in both)}
    order = [info.spec for info in infos.values()]  # a model folder is written out in them
    return sorted(found.values(), key=lambda arm: order.index(arm.info.spec))


def _none(info: ModelInfo) -> tuple[str, ...]:
    return (NAME,) if set(info.card.takes) == TEXT else ()


def _arm(info: ModelInfo, prompter: str) -> _Arm:
    takes = frozenset(info.card.takes)
    if takes == TEXT and not assemble.prompter_info(prompter).gives <= TEXT:
        return _Arm(info, NAME, draws=False, misfit="")
    user = assemble.prompter_info(assemble.on_plane(prompter, info.resolved.get("plane")))
    extra = user.gives - takes
    misfit = ""
    if extra:
        misfit = (
            f"{info.spec} does not take {' or '.join(sorted(extra))} (it takes {', '.join(info.card.takes)}), "
            f"which {user.spec} gives"
        )
    return _Arm(info, str(user.spec), draws=user.draws, misfit=misfit)


def _wanted(plan: Plan, sources: Sequence[Source]) -> dict[tuple[Path, str], tuple[str, ...]]:
    """Common names of the targets wanted in each case; a union of sides brings its sides."""
    choices = {choice.case: choice.targets for choice in plan.cases}
    every = [(source.root, case) for source in sources for case in source.cases]
    if missing := [name for name in choices if all(case.id != name for _, case in every)]:
        some = ", ".join(case.id for _, case in every[:5])
        raise PlanError(f"{plan.name}: cases: no case {', '.join(missing)} in these data; there are {some} ...")
    found: dict[tuple[Path, str], tuple[str, ...]] = {}
    seen: set[str] = set()
    for root, case in every:
        if choices and case.id not in choices:
            continue
        own = _own(case)
        for_case = choices.get(case.id, ())
        if lacking := [name for name in for_case if not references.matching(case, name)]:
            there = case.broken or f"it has {', '.join(own) or 'no structure'}"
            raise PlanError(f"{plan.name}: cases: {case.id} has no {', '.join(lacking)}; {there}")
        chosen = [name for word in for_case for name in references.matching(case, word)] if for_case else list(own)
        if plan.targets:
            by_word = {word: references.matching(case, word) for word in plan.targets}
            seen |= {word for word, names in by_word.items() if names}
            named = dict.fromkeys(name for names in by_word.values() for name in names)
            chosen = [name for name in named if name in chosen or name not in own] if not for_case else chosen
            chosen = [name for name in chosen if name in named]
        found[root, case.id] = tuple(dict.fromkeys(chosen))
    if unknown := [word for word in plan.targets if word not in seen]:
        names = sorted({name for _, case in every for name in _own(case)})
        near = {n for word in unknown for n in (*anatomy.resolve(word).near, anatomy.resolve(word).name) if n in names}
        hint = f"did you mean {' or '.join(sorted(near))}?" if near else f"there are {', '.join(names[:40])}"
        raise PlanError(f"{plan.name}: targets: no case has {', '.join(unknown)}; {hint}")
    return found


def _there_to_remove(plan: Plan, sources: Sequence[Source]) -> None:
    """Refuse a condition that takes away what no case has: every case would stay as it is."""
    cases = [case for source in sources for case in source.cases]
    names = sorted({name for case in cases for name in _own(case)})
    for text in plan.conditions:
        for word in conditions.removed(text):
            if not any(references.matching(case, word) for case in cases):
                raise PlanError(
                    f"{plan.name}: conditions: {text}: no case has {word}; there are {', '.join(names[:40])}"
                )


def _known_in_groups(plan: Plan, sources: Sequence[Source]) -> None:
    """Refuse a name in a group that no case has and the vocabulary does not know either."""
    cases = [case for source in sources for case in source.cases]
    for name, words in plan.groups:
        for word in words:
            meant = anatomy.resolve(word)
            if not meant.known and not any(references.matching(case, word) for case in cases):
                hint = f"; did you mean {' or '.join(meant.near)}?" if meant.near else ""
                raise PlanError(f"{plan.name}: groups: {name}: no case has {word}{hint}")


def grouped(plan: Plan, sources: Sequence[Source]) -> Plan:
    """The plan with its groups by the names that these cases have: both sides of a union, and other names of one."""
    cases = [case for source in sources for case in source.cases]
    groups = tuple(
        (
            name,
            tuple(
                dict.fromkeys(
                    own for word in words for case in cases for own in (*references.matching(case, word), word)
                )
            ),
        )
        for name, words in plan.groups
    )
    return dataclasses.replace(plan, groups=groups)


def _own(case: Case) -> tuple[str, ...]:
    """Structures of a case without the unions of two others of it."""
    unions = references.unions(case)
    return tuple(dict.fromkeys(s.name for s in case.structures if s.name not in unions))


def _meet(found: _Found, arm: _Arm, source: Source, case: Case, names: tuple[str, ...], plan: Plan) -> None:
    """The tasks of a model and prompter on a case, as it is and under all conditions, and what they leave out."""
    asked, refused = _targets(arm, case, names)
    for seed in range(plan.seeds if arm.draws else 1):
        task = _task(arm, source, case, asked, seed)
        if asked:
            found.tasks += [dataclasses.replace(task, condition=one) for one in ("", *plan.conditions)]
        if seed == 0:
            found.skipped += [_left(task, arm, case, name, reason) for name, reason in refused.items()]
            found.left_out.update(refused.values())


def _unread(found: _Found, arm: _Arm, source: Source, case: Case) -> None:
    """A case of which only its name is known: it has no task, and it is said why."""
    reason = f"{case.id} cannot be read: {case.broken}"
    found.skipped.append(_left(_task(arm, source, case, (), 0), arm, case, "", reason))
    found.left_out[reason] = 1


def _task(arm: _Arm, source: Source, case: Case, targets: tuple[str, ...], seed: int) -> Task:
    return Task(
        model=str(arm.info.spec),
        prompter=arm.prompter,
        dataset=case.dataset,
        layout=source.layout,
        root=str(source.root),
        case=case.id,
        subject=case.subject,
        seed=seed,
        targets=targets,
    )


def _left(task: Task, arm: _Arm, case: Case, target: str, reason: str) -> Record:
    """The record of what is left out."""
    facts = {"modality": case.modality, "given": dict(arm.info.given), "resolved": dict(arm.info.resolved)}
    return record_of(task, target, 0, "skipped", reason=reason, **facts)


def _targets(arm: _Arm, case: Case, names: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """(what is asked, name -> why it is not)."""
    card, unions = arm.info.card, references.unions(case)
    sides = tuple(name for name in names if name not in unions)
    if arm.misfit:
        return (), dict.fromkeys(sides, arm.misfit)
    if case.modality and case.modality not in card.modalities:
        reason = f"{arm.info.spec} is made for {' and '.join(card.modalities)}, not for {case.modality}"
        return (), dict.fromkeys(sides, reason)
    if arm.info.labels is None:
        return sides, {}
    labels = {name for label in arm.info.labels for name in (label, anatomy.resolve(label).name)}
    asked = [name for name in sides if name in labels]
    together = {union: pair for union, pair in unions.items() if union in labels and set(pair) <= set(sides)}
    refused = {}
    for name in sides:
        union = next((union for union, pair in together.items() if name in pair), None)
        if name in labels:
            continue
        if union is None:
            refused[name] = f"{arm.info.spec} does not know {name}"
        else:
            asked.append(union)
            refused[name] = f"{arm.info.spec} knows both sides only together: it is scored on {union}"
    return tuple(dict.fromkeys(asked)), refused


def _all_have_tasks(plan: Plan, arms: Sequence[_Arm], found: _Found) -> None:
    able = {task.model for task in found.tasks}
    named = {m: str(assemble.model_info(m).spec) for m in (*plan.models, *(p.model for p in plan.pairs))}
    idle = [model for model, spec in named.items() if spec not in able and (model not in plan.optional or not able)]
    if not idle:
        return
    lines = []
    for model in idle:
        reasons = dict.fromkeys(record.reason for record in found.skipped if record.model == named[model])
        lines.append(f"{model} has nothing to do: {'; '.join(reasons) or _why_idle(model, plan)}")
    raise PlanError("\n".join(f"{plan.name}: {line}" for line in lines))


def _why_idle(model: str, plan: Plan) -> str:
    if not plan.prompters and all(pair.model != model for pair in plan.pairs):
        return "no prompter was given (-p)"
    return "no case has a target that was asked for"
