"""From a large model to a small one that answers like it: what `segwise distill` does.

A student of the teacher's make learns from it on scans with or without labels, and is a model folder in the end: it
loads by the very code that loads its teacher. A report says how near it comes and what it saves.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segwise import assemble, learn
from segwise.case import Case
from segwise.errors import SpecError, TrainingError
from segwise.geometry import Array, Grid
from segwise.learn import Tick, Who
from segwise.nets import students
from segwise.nets.focus_unet import FocusUNet
from segwise.nets.sam import SamNet
from segwise.pretrain import scans
from segwise.prompt import Box, Prompt
from segwise.segmenter import Learned, Parts
from segwise.spec import Spec, of_folder
from segwise.training import fidelity, labelled_regions, loop, prepared, regions, splits
from segwise.training.anywhere import REGION, Anywhere, held_out
from segwise.training.contract import Recipe
from segwise.training.distilled import Distilled, best, moved_to, one_query
from segwise.training.distilled_regions import DistilledRegions
from segwise.training.fidelity import Cost, Fidelity
from segwise.training.interactive import Sample, together
from segwise.training.labelled import Budget
from segwise.training.labelled_regions import LabelledRegions
from segwise.weights import folders

WEIGHTS, CONFIG, REPORT = "checkpoint.pth", "config.json", "fidelity.json"
HELD = 24  # slices, or regions, of a learning curve
ASKED = 48  # of the report
OWN = ("checkpoint", "size", "untrained")  # arguments of a teacher that its student does not share


@dataclass(frozen=True)
class Distillation:
    """A training that can begin.

    Attributes:
        learning: recipe, structures, split, as for every training.
        teacher: spec.
        student: spec of the student without its weights.
        sizes: parameters of teacher and student.
        report: asks teacher and student about the held-out subjects; needs the written folder.
    """

    learning: learn.Learning
    teacher: Spec
    student: Spec
    sizes: tuple[int, int]
    report: Callable[[], Fidelity] = field(repr=False)


@dataclass(frozen=True)
class _Data:
    dataset: str
    names: tuple[str, ...]
    split: splits.Split
    cases: Sequence[Case] = field(repr=False)


def distillation(
    teacher: str,
    who: Who | None,
    out: Path,
    budget: Budget,
    *,
    student: students.Size = "small",
    tick: Tick | None = None,
) -> Distillation:
    """A student beside its teacher, ready to learn.

    Args:
        teacher: spec of a promptable model with SAM's prompts, or of `default`; adapted or not.
        who: whose scans; None: generated regions, for `default`.
        out: the model folder to be.
        budget: of the training.
        student: "small" has at most about a quarter of the teacher's parameters, "tiny" a sixteenth or less.
        tick: told how far the preparation of the cases is.

    Raises:
        CatalogError: no such model. SpecError: it has no student. TrainingError: nothing to learn from.
    """
    of_folder(out)  # refused before anything is read
    if student not in students.CUTS:
        raise SpecError(f'student "{student}": expected {" or ".join(students.CUTS)}')
    info = assemble.model_info(teacher)
    built = assemble.build(info.spec)
    model = built.segmenter
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)
        net = students.student_of(model.parts.net, student) if isinstance(model, Learned) else None
    if net is None or not isinstance(model, Learned) or built.weights.startswith("random"):
        raise SpecError(
            f"{info.spec} has no student: expected a trained model with SAM's prompts behind a ViT or TinyViT (sam, "
            "litemedsam, medsam …) or default, with or without adapters, and without wrappers"
        )
    shown = getattr(model.parts.frame, "chunk", 1)
    if shown > 1:
        raise SpecError(
            f"{info.spec} is shown {shown} slices at once, and a student learns from single ones; expected a teacher "
            "without lift=chunks"
        )
    spec = Spec(info.spec.name, {key: value for key, value in info.spec.args.items() if key not in OWN})
    data = _generated(out) if who is None else _found(who, out)
    train, valid, asked = (_prepared(data, model, out, part, tick) for part in ("train", "valid", _held(data.split)))
    save = _saving(
        spec, f"{info.card.title}, {student} student", data, info.spec, built.weights, config_of(net, model.parts)
    )
    with torch.random.fork_rng(devices=[]):  # projections are drawn too
        torch.manual_seed(budget.seed)
        recipe = _recipe(str(spec), net, model, frozenset(info.card.takes), train, valid, budget, save, who)
    key = repr(
        (
            str(info.spec),
            built.weights,
            student,
            data.dataset,
            data.names,
            data.split,
            replace(budget, validate_every=0),
        )
    )
    recipe = replace(recipe, version=hashlib.blake2b(key.encode(), digest_size=8).hexdigest())
    sizes = fidelity.parameters(model.parts.net), fidelity.parameters(net)
    counts = tuple(len(data.split.of(data.cases, part)) for part in ("train", "valid"))
    learning = learn.Learning(recipe, data.names, data.split, (counts[0], counts[1]), sizes[1], sizes[0], spec)
    return Distillation(
        learning, info.spec, spec, sizes, lambda: _report(model, info.spec, out, data, asked, budget.seed)
    )


def distill(made: Distillation, out: Path, *, report: bool = True, **how: Any) -> tuple[loop.Outcome, Fidelity | None]:
    """Train, or go on; with the schedule at its end, write and return the report.

    Args:
        made: by `distillation`.
        out: its folder.
        report: measure the student at the end.
        how: as `learn.train`.
    """
    found = learn.train(made.learning, out, **how)
    if not (found.finished and report):
        return found, None
    told = made.report()
    part = out / f".{REPORT}.tmp"
    part.write_text(json.dumps(told.content, indent=1) + "\n", encoding="utf-8")
    part.replace(out / REPORT)
    return found, told


def _found(who: Who, out: Path) -> _Data:
    """Labelled cases as every layout reads them, or the scans of a folder that no layout knows."""
    splits.apart(out, who.data)
    everything = scans(who.data, who.layout, modality=who.modality)
    cases = splits.usable(everything, modality=who.modality)
    split = learn.drawn(who, cases, everything)
    train = split.of(cases, "train")
    names = tuple(sorted({s.name for case in train for s in case.structures}))
    if who.targets:
        names = splits.named(train, who.targets)
    splits.noted(split, out)
    return _Data(train[0].dataset, names, split, cases)


def _generated(out: Path) -> _Data:
    split = splits.Split(("generated",))
    splits.noted(split, out)
    return _Data("Segwise synth (generated)", (), split, ())


def _held(split: splits.Split) -> str:
    """The part that a report is about: subjects that nothing was learned from, if there are any."""
    return next((part for part in ("test", "valid") if getattr(split, part)), "train")


def _prepared(data: _Data, model: Learned, out: Path, part: str, tick: Tick | None) -> list[prepared.Prepared]:
    into, frame = out / "prepared", model.parts.frame
    return prepared.prepare(data.split.of(data.cases, part), frame, data.names, into, tick=tick, all_of_them=False)


def _recipe(
    name: str,
    net: nn.Module,
    model: Learned,
    takes: frozenset[str],
    train: Sequence[prepared.Prepared],
    valid: Sequence[prepared.Prepared],
    budget: Budget,
    save: Callable[[Path, nn.Module, Mapping[str, Any]], list[Path]],
    who: Who | None,
) -> Recipe:
    teacher, frame, seed = model.parts.net, model.parts.frame, budget.seed
    settings, stream, objective = budget.settings(), None, None
    if isinstance(net, SamNet):
        if who is None:
            raise TrainingError(f"{name} learns from slices of scans: give a folder of them (DATA), labelled or not")
        stream = Anywhere(tuple(train), frame, takes, size=budget.size, seed=seed)
        held = held_out(frame, valid, n=HELD, seed=seed)
        objective = Distilled(net, teacher, frame, held=held)
        return Recipe(name=name, objective=objective, stream=stream, settings=settings, save=save)
    assert isinstance(net, FocusUNet)
    if who is None:
        made, held_ = _worlds(frame, budget)
        return Recipe(
            name=name,
            objective=DistilledRegions(net, teacher, frame, held=held_),
            stream=made,
            settings=settings,
            save=save,
        )
    if not any(case.there for case in train):
        raise TrainingError(
            f"{name} looks at regions, and these scans have no labels to find any: leave out DATA (generated regions), "
            "or give labelled cases"
        )
    cut = LabelledRegions(tuple(train), frame, size=budget.size, seed=seed, augment=budget.augment)  # type: ignore[arg-type]
    held_ = labelled_regions.checked(frame, valid, n=HELD, seed=seed)  # type: ignore[arg-type]
    objective_ = DistilledRegions(net, teacher, frame, held=held_)
    return Recipe(name=name, objective=objective_, stream=cut, settings=settings, save=save)


def _worlds(frame: Any, budget: Budget, *, n: int = HELD) -> tuple[regions.Regions, list[Sample]]:
    """Generated worlds, and others for the curve."""
    from segwise.synth.worlds import world

    families = ((world, 1.0),)
    stream = regions.Regions(frame, families, size=budget.size, seed=budget.seed)
    return stream, regions.held(regions.Regions(frame, families, size=2, seed=budget.seed, held=True), n)


def config_of(net: nn.Module, parts: Parts) -> dict[str, Any]:
    """`config.json` of the student: what its shapes do not tell, and the colours of its frame."""
    told: dict[str, Any] = dict(students.config_of(net))
    for key, name in (("pixel_mean", "mean"), ("pixel_std", "std")):
        if told and (value := getattr(parts.frame, name, None)) is not None:
            told[key] = list(value)
    return told


def _saving(
    spec: Spec, title: str, data: _Data, teacher: Spec, weights: str, config: Mapping[str, Any]
) -> Callable[[Path, nn.Module, Mapping[str, Any]], list[Path]]:
    """What writes the model folder; a student of weights that nobody knows is not vouched for either."""
    said = {"dataset": data.dataset, "structures": list(data.names), "subjects": data.split.content}

    def save(folder: Path, net: nn.Module, known: Mapping[str, Any]) -> list[Path]:
        student: Any = net.student
        folders.write(
            folder,
            spec=str(spec),
            files={CONFIG: json.dumps(dict(config), indent=1).encode(), WEIGHTS: student.state_dict()},
            title=title,
            data=said,
            trained={**known, "teacher": str(teacher), "teacher_weights": weights},
            vouched=not weights.startswith("unknown"),
        )
        return [folder / WEIGHTS, folder / CONFIG, folder / "model.json"]

    return save


def _report(
    model: Learned, spec: Spec, out: Path, data: _Data, cases: Sequence[prepared.Prepared], seed: int
) -> Fidelity:
    """Both asked about the held-out subjects."""
    folder = of_folder(out)
    own = assemble.segmenter(folder)
    assert isinstance(own, Learned)
    nets = model.parts.net.float().cpu().eval(), own.parts.net.float().cpu().eval()
    frame: Any = model.parts.frame
    questions: list[tuple[str, Any, Array | None]] = []
    if isinstance(nets[0], SamNet):
        for case in cases:
            share = max(1, ASKED // len(cases))
            for one in held_out(frame, [case], n=share, seed=seed):
                asked = one.asked[0]
                questions.append((case.subject, one, None if asked.name == REGION else asked.mask))
        answers = tuple(_on_slices(net, frame) for net in nets)
    else:
        found = [
            (case.subject, s) for case in cases for s in labelled_regions.checked(frame, [case], n=ASKED, seed=seed)
        ]
        if not cases:
            found = [("generated", s) for s in _worlds(frame, Budget(steps=1, seed=seed), n=ASKED)[1]]
        questions = [(subject, one, one.soft >= 0.5) for subject, one in found]
        answers = tuple(_on_regions(net, frame) for net in nets)
    told, *seconds = fidelity.measured(questions, *answers)
    memory = [peak_gb(str(spec)), peak_gb(folder)]
    file_bytes = fidelity.n_bytes(nets[0]), (out / WEIGHTS).stat().st_size
    costs = [
        Cost(fidelity.parameters(net), size, taken, gb)
        for net, size, taken, gb in zip(nets, file_bytes, seconds, memory, strict=True)
    ]
    held = "generated" if not cases else _held(data.split)
    return Fidelity(held=held, teacher=costs[0], student=costs[1], **told)


def _on_slices(net: Any, frame: Any) -> fidelity.Answer:
    def answer(one: Any) -> tuple[Array, float]:
        def work() -> Array:
            features = net.encode(torch.from_numpy(one.view)[None])
            decoded = net.decode(features, one_query(frame, one.asked[0].prompt, one.window, 0))
            return best(decoded, 0).numpy()

        logits, taken = fidelity.timed(work)
        return frame.restore(logits[None, None], one.window)[0, 0] > 0, taken

    return answer


def _on_regions(net: Any, frame: Any) -> fidelity.Answer:
    def answer(one: Any) -> tuple[Array, float]:
        def work() -> Array:
            features = net.encode(torch.from_numpy(one.view)[None])
            marks = together([frame.marks(one.prompt, one.window, one.seen)], torch.device("cpu"))
            return net.decode(features, marks).logits[0, 0].numpy()  # type: ignore[no-any-return]

        logits, taken = fidelity.timed(work)
        return logits > 0, taken

    return answer


def once(segmenter: Learned) -> None:
    """Answer one question about a blank view: what a net takes at least."""
    net, frame = segmenter.parts.net, segmenter.parts.frame
    d, h, w = frame.shape
    window = Grid((d, h, w), torch.eye(4, dtype=torch.float64).numpy())
    box = Prompt((Box.of(window, (0, h // 4, w // 4), (d, 3 * h // 4, 3 * w // 4)),))
    channels = 3 if d == 1 else 1
    with torch.no_grad():
        features = net.encode(torch.zeros(1, channels, d, h, w))
        net.decode(features, moved_to(one_query(frame, box, window, 0), torch.device("cpu")))


def peak_gb(spec: str) -> float | None:
    """Greatest memory of a process that loads a model and answers one question, beyond that of the program.

    Returns:
        GB, or None where it cannot be told.
    """
    code = (
        "import sys, torch\nfrom segwise import assemble, distilling\nfrom segwise.training.memory import memory_gb\n"
        "torch.set_num_threads(1)\nbefore = memory_gb()\ndistilling.once(assemble.segmenter(sys.argv[1]))\n"
        "print(memory_gb() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, spec], capture_output=True, text=True, check=False)
    try:
        return float(done.stdout.split()[-1])
    except (IndexError, ValueError):
        return None
