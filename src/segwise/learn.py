"""From a user's labelled cases to a model folder: what `segwise train SPECIALIST DATA` and `segwise adapt` do.

Cases are split by subject, prepared once, learned from in a training that can be killed and taken up again, and the
result is a folder that every command takes like a model: `-m ./FOLDER`.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from segwise import assemble, catalog
from segwise.case import Case
from segwise.errors import SpecError, TrainingError
from segwise.evaluate import inventory
from segwise.nets.planned import stored
from segwise.nets.tuned import share, tuned
from segwise.segmenter import Learned
from segwise.spec import Spec, of_folder, parse, seen_from
from segwise.training import labelled, loop, masked, planning, prepared, splits
from segwise.training.contract import Recipe
from segwise.training.forecast import Forecast
from segwise.training.forecast import forecast as probed
from segwise.training.labelled import Budget
from segwise.weights import folders, pretrained

ADAPTER, WEIGHTS, PLAN = "adapter.safetensors", "weights.safetensors", "plan.json"
MULTIPLES = (16, 32)  # that divide the sides of a patch: of most nets, of those that halve five times
Tick = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Who:
    """Which cases, which structures of them, and who is trained on.

    Attributes:
        data: folder of a data set.
        layout: of it; None for the one that recognises it.
        targets: names of structures; () for those that every training case lists. Cases that have none are left out.
        modality: "CT" or "MR": only these cases; "" for all.
        fraction: share of the training subjects that are used.
        left_out: subjects kept for testing.
        fold, folds: instead: every subject is tested in one of so many trainings.
        split: a file with the subjects by part, instead.
        seed: of the drawn order of the subjects.
        generated: a folder of generated persons that are trained on, too; None for none.
        alone: these are all that is trained on.
        called: name of the data set; "" for its own.
    """

    data: Path
    layout: str | None = None
    targets: tuple[str, ...] = ()
    modality: str = ""
    fraction: float = 1.0
    left_out: tuple[str, ...] = ()
    fold: int = 0
    folds: int = 0
    split: Path | None = None
    seed: int = 0
    generated: Path | None = None
    alone: bool = False
    called: str = ""


@dataclass(frozen=True)
class Learning:
    """A training that can begin.

    Attributes:
        recipe: of the loop.
        names: of the structures.
        split: who is in what part.
        cases: (training, validation) cases.
        trained, parameters: how many parameters are trained, and how many there are.
        model: the spec that is trained.
        taken: tensors of the net that came from a pre-trained encoder.
        seen: subjects kept for testing whose scans that encoder was trained on.
    """

    recipe: Recipe
    names: tuple[str, ...]
    split: splits.Split
    cases: tuple[int, int]
    trained: int
    parameters: int
    model: Spec
    taken: int = 0
    seen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """The cases of a training, by part; who they are is in the folder's split.json. The last `generated` are made."""

    dataset: str
    names: tuple[str, ...]
    split: splits.Split
    train: list[Case] = field(repr=False)
    valid: list[Case] = field(repr=False)
    generated: int = 0


def adaptation(model: str, who: Who, out: Path, budget: Budget, *, tick: Tick | None = None) -> Learning:
    """A generalist with an adapter, to be tuned on labelled cases.

    Args:
        model: spec with an adapter at its end, e.g. "litemedsam+lora(rank=4)".
        who: see there.
        out: the model folder to be.
        budget: of the training.
        tick: told how far the preparation of the cases is.

    Raises:
        CatalogError: no such model or adapter. TrainingError: nothing to learn from.
    """
    spec = parse(model)
    if not spec.plus or spec.plus[-1].name not in catalog.names("adapters"):
        raise SpecError(
            f"{spec}: expected a model with an adapter at its end, such as {spec.base}+lora(rank=4); there are "
            f"{', '.join(catalog.names('adapters'))}"
        )
    chosen = cases_of(who, out)
    built = assemble.build(spec)
    segmenter = built.segmenter
    if not isinstance(segmenter, Learned):
        raise SpecError(f"{spec}: only models with a net can be adapted")
    labelled.adaptable(str(spec), segmenter, budget)
    train, valid = _prepared(chosen, segmenter, out, tick)
    names = set(tuned(segmenter.parts.net))

    def save(folder: Path, net: nn.Module, known: Mapping[str, Any]) -> list[Path]:
        own = {name: value for name, value in net.named_parameters() if name in names}
        return _saved(folder, own, ADAPTER, spec, told(chosen), known)

    recipe = labelled.adaptation(str(spec), segmenter, built.info.card.takes, train, valid, budget, save, _note(chosen))
    return _learning(recipe, chosen, spec, segmenter.parts.net, budget)


def specialist(
    model: str,
    who: Who,
    out: Path,
    budget: Budget,
    *,
    patch: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    patch_voxels: int = 64**3,
    start: Path | None = None,
    tick: Tick | None = None,
) -> Learning:
    """A specialist, to be trained from nothing on labelled cases, or from a pre-trained encoder.

    Args:
        model: spec of a specialist, e.g. "unet(skips=false)".
        who, out, budget, tick: as `adaptation`.
        patch: (d, h, w) of a window; None: planned from the cases, of `patch_voxels` at most.
        spacing_mm: (d, h, w); None: planned.
        patch_voxels: see there.
        start: folder that `segwise pretrain` wrote: the encoder and all of the plan but the labels are its.

    Raises:
        CatalogError: no such model. TrainingError: nothing to learn from. WeightsError: `start` holds no whole
            encoder, or one of another model, patch or spacing, or of other channels.
    """
    spec = parse(model)
    trainable(spec)
    begun = None if start is None else pretrained.read(start).checked(spec.name, spec.args, patch, spacing_mm)
    chosen = cases_of(who, out)
    path = out / PLAN
    if begun is not None:
        case = chosen.train[0]
        content = begun.relabelled(chosen.names, planning.channels(case), f"case {case.id}")
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != content:
            raise TrainingError(f"{out} holds a training with another {PLAN} than {start} has; give another folder")
        _written(path, content)
    elif path.is_file() and splits.begun(out):
        planning.same(path, chosen.names, patch=patch, spacing_mm=spacing_mm)
    else:
        looked = None if tick is None else lambda i, n: tick(i, n, "looking at the cases")
        found = planning.fingerprint(chosen.train, chosen.names, progress=looked)
        planned(path, spec, found, chosen.names, patch=patch, spacing_mm=spacing_mm, patch_voxels=patch_voxels)
    segmenter = assemble.segmenter(fresh(spec, path, budget.seed))
    assert isinstance(segmenter, Learned)
    taken = 0 if begun is None else masked.take(segmenter.parts.net, begun.encoder(), begun.path)
    train, valid = _prepared(chosen, segmenter, out, tick)

    def save(folder: Path, net: nn.Module, known: Mapping[str, Any]) -> list[Path]:
        if not (folder / PLAN).is_file():  # a probe's folder
            _written(folder / PLAN, json.loads(path.read_text(encoding="utf-8")))
        return _saved(folder, stored(net), WEIGHTS, spec, told(chosen, begun), known, beside=(PLAN,))

    recipe = labelled.specialist(str(spec), segmenter.parts, train, valid, budget, save, _note(chosen))
    made = _learning(recipe, chosen, spec, segmenter.parts.net, budget, origin=begun.sha if begun else "")
    return replace(made, taken=taken, seen=begun.saw(chosen.dataset, chosen.split.test) if begun else ())


def planned(path: Path, spec: Spec, found: planning.Fingerprint, names: Sequence[str], **given: Any) -> None:
    """Write plan.json, its patch divisible by what the net needs.

    Raises:
        SpecError: no patch that it can see.
    """
    for multiple in MULTIPLES:
        content = planning.plan(found, names=names, multiple=multiple, **given)
        _written(path, content)
        try:
            new = assemble.segmenter(fresh(spec, path, 0))
        except SpecError:
            path.unlink()
            if multiple == MULTIPLES[-1]:
                raise
        else:
            assert isinstance(new, Learned)
            _written(path, {**content, "net": dict(new.parts.net.origin)})
            return


def fresh(spec: Spec, plan: Path, seed: int) -> Spec:
    """The spec of an untrained specialist, its weights drawn from a seed."""
    return Spec(spec.name, {**spec.args, "plan": str(plan), "untrained": seed})


def trainable(spec: Spec) -> None:
    """Nothing, if it is a specialist that is trained from a plan.

    Raises:
        CatalogError: no such model, or a wrong argument.
        SpecError: it is no such specialist.
    """
    member = catalog.member("models", spec.name)
    member.arguments(spec)
    if spec.plus or not {"plan", "untrained"} <= set(member.parameters):
        fit = [name for name in catalog.names("models") if _is_planned(name)]
        raise SpecError(
            f"{spec} is not trained from nothing on labelled cases; expected one of {', '.join(fit)}, or nnunet "
            "(without arguments: --steps and --epochs say how long). To tune a "
            "generalist: segwise adapt MODEL+ADAPTER DATA -o DIR"
        )


def _is_planned(name: str) -> bool:
    return {"plan", "untrained"} <= set(catalog.member("models", name).parameters)


def cases_of(who: Who, out: Path) -> Chosen:
    """Cases by part; the split is written into the folder, or must be the one that is there.

    Raises:
        DatasetError: nothing can be read. TrainingError: nobody to train on, no such structure, or another split there.
        SpecError: no spec can name the folder.
    """
    of_folder(out)  # refused before anything is read
    splits.apart(out, who.data)
    everything = inventory.find(who.data, who.layout)[1]
    cases = splits.usable(everything, targets=who.targets, modality=who.modality)
    split = drawn(who, cases, everything)
    if who.alone:
        split = replace(split, train=())
    train, valid = split.of(cases, "train"), split.of(cases, "valid")
    n_real = len(train)
    if who.generated is not None:
        train += splits.usable(inventory.find(who.generated)[1], targets=who.targets, modality=who.modality)
    names = splits.named(train, who.targets)
    splits.noted(split, out)
    dataset = who.called or next(case.dataset for case in cases if not case.broken)
    return Chosen(dataset, names, split, train, valid, len(train) - n_real)


def drawn(who: Who, cases: Sequence[Case], everything: Sequence[Case]) -> splits.Split:
    """The subjects by part, and the cases that are not used as they cannot be read.

    Args:
        who: see there. A subject that it leaves out and that has no case here needs not be left out.
        cases: that can be learned from (`splits.usable`).
        everything: all cases of the data set.

    Raises:
        TrainingError: as `splits`, the split names somebody who is not there, or it comes with a fraction.
    """
    if who.split is not None:
        if who.fraction != 1:
            raise TrainingError(
                f"a fraction of {who.fraction:g} and the split {who.split} came; expected one of them, as the split "
                "says who is trained on: leave --fraction out, or shorten its list under train"
            )
        split = splits.read(who.split)
        splits.present(split, cases, everything, path=who.split)
    elif who.folds:
        split = splits.fold(cases, k=who.fold, n=who.folds, seed=who.seed, fraction=who.fraction)
    else:
        others = set(splits.subjects(everything)) - set(splits.subjects(cases))  # none of the targets, or not of CT
        left_out = tuple(s for s in who.left_out if s not in others)
        split = splits.split(cases, seed=who.seed, left_out=left_out, fraction=who.fraction)
    return replace(split, unused=splits.unused(everything))


def _prepared(
    chosen: Chosen, model: Learned, out: Path, tick: Tick | None
) -> tuple[list[prepared.Prepared], list[prepared.Prepared]]:
    frame, into = model.parts.frame, out / "prepared"
    train = prepared.prepare(chosen.train, frame, chosen.names, into, tick=tick)
    valid = [
        one
        for case in chosen.valid
        if any(case.structure(name) is not None for name in chosen.names)
        for one in prepared.prepare([case], frame, chosen.names, into, tick=None, all_of_them=False)
    ]
    return train, valid


def _learning(recipe: Recipe, chosen: Chosen, spec: Spec, net: nn.Module, budget: Budget, origin: str = "") -> Learning:
    """`origin`: SHA-256 of the encoder that it starts from."""
    same = replace(budget, validate_every=0, gather=1, recompute=False)
    words = (str(spec), chosen.dataset, chosen.names, chosen.split, same)
    key = repr((*words, *filter(None, (origin, chosen.generated))))
    version = hashlib.blake2b(key.encode(), digest_size=8).hexdigest()
    counted = share(net)
    return Learning(
        replace(recipe, version=version),
        chosen.names,
        chosen.split,
        (len(chosen.train), len(chosen.valid)),
        counted.trained,
        counted.all,
        spec,
    )


def train(
    learning: Learning,
    out: Path,
    *,
    minutes: float | None = None,
    device: str = "cpu",
    threads: int | None = None,
    command: Sequence[str] = (),
    progress: loop.Progress | None = None,
    study: Mapping[str, str | int] | None = None,
) -> loop.Outcome:
    """Train, or go on where the folder's last checkpoint stands; the model folder is written at the end of a piece.

    Raises:
        TrainingError: as `training.loop.train`.
    """
    recipe = labelled.with_settings(learning.recipe, threads=threads)
    known = {
        "command": shlex.join(command),
        "versions": loop.versions(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": device,
        "parameters": learning.trained,
        **(study or {}),
    }
    return loop.train(recipe, out, minutes=minutes, device=device, known=known, progress=progress)


def forecast(
    learning: Learning, *, device: str = "cpu", budget_gb: float | None = None, cheaper: bool = False
) -> Forecast:
    """What a training will take, from a few steps of it in a folder that is thrown away."""
    return probed(learning.recipe, device=device, budget_gb=budget_gb, cheaper=cheaper)


def told(chosen: Chosen, begun: pretrained.Pretrained | None = None) -> dict[str, Any]:
    """What a model folder says of its data."""
    said: dict[str, Any] = {
        "dataset": chosen.dataset,
        "structures": list(chosen.names),
        "subjects": chosen.split.content,
    }
    if chosen.generated:
        said["generated"] = chosen.generated
    return said | ({"pretrained": {"encoder": begun.sha, **begun.data}} if begun else {})


def _note(chosen: Chosen) -> str:
    n, more = len(chosen.split.train), chosen.generated
    told = [f"{n} subject{'s' * (n != 1)} of {chosen.dataset}"] if n or not more else []
    told += [f"{more} generated person{'s' * (more != 1)}"] if more else []
    return f"trained on {' and '.join(told)}"


def _saved(
    folder: Path,
    tensors: Mapping[str, Any],
    name: str,
    spec: Spec,
    data: Mapping[str, Any],
    known: Mapping[str, Any],
    beside: Sequence[str] = (),
) -> list[Path]:
    """The model folder of a training; its files."""
    folders.write(
        folder,
        spec=str(seen_from(folder, spec)),
        files={name: dict(tensors), **dict.fromkeys(beside)},
        data=dict(data),
        trained=dict(known),
    )
    return [folder / one for one in (name, *beside, "model.json")]


def _written(path: Path, content: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}.tmp")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
