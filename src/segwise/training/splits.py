"""Who is trained on and who is not: by subject, never by slice or case, and written down."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segwise.case import Case
from segwise.errors import TrainingError

FILE = "split.json"
BEGUN = ("last.pt", "model.json")  # in a folder where something was learned already
RUN = "run.json"  # in the folder of a run
UNUSED = "unused"  # key of split.json: the cases that could not be read, and why
VALIDATED = 0.2  # share of the subjects that a training checks itself on, where nothing else is said


@dataclass(frozen=True)
class Split:
    """Subjects by what becomes of them; no subject is in two lists.

    Attributes:
        train: the net learns from them.
        valid: the learning curve is measured on them.
        test: nothing of this training sees them: what was left out by name, or is another fold.
        unused: (id, reason) of the cases that cannot be read; says nothing of who is in what part.
    """

    train: tuple[str, ...]
    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    unused: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)  # a training is not known by it

    def of(self, cases: Sequence[Case], part: str) -> list[Case]:
        """The cases of "train", "valid" or "test" that can be read, in their order."""
        subjects = set(getattr(self, part))
        return [case for case in cases if case.subject in subjects and not case.broken]

    @property
    def content(self) -> dict[str, Any]:
        """Subjects by part."""
        return {"train": list(self.train), "valid": list(self.valid), "test": list(self.test)}

    @property
    def lost(self) -> str:
        """The cases that are not used and why, in one line; "" if there are none."""
        return _lost(self.unused)


def usable(cases: Sequence[Case], *, targets: Sequence[str] = (), modality: str = "") -> list[Case]:
    """Cases that can be learned from: of one modality if it is given, with one of the targets at least if they are.

    Raises:
        TrainingError: none is left.
    """
    fit = [case for case in cases if not modality or case.modality == modality]
    if not fit:
        _readable(cases)
        there = sorted({case.modality or "unknown" for case in cases if not case.broken})
        raise TrainingError(
            f"no case is {modality}; the data set has {', '.join(there)}: say another --modality{_beside(cases)}"
        )
    found = [case for case in fit if case.broken or not targets or any(case.structure(name) for name in targets)]
    return found if subjects(found) else fit  # where nobody has one, the names are told later


def subjects(cases: Sequence[Case]) -> tuple[str, ...]:
    """The subjects of cases that can be read, sorted."""
    return tuple(sorted({case.subject for case in cases if not case.broken}))


def unused(cases: Sequence[Case]) -> tuple[tuple[str, str], ...]:
    """(id, reason) of the cases that cannot be read, in their order."""
    return tuple((case.id, case.broken) for case in cases if case.broken)


def _readable(cases: Sequence[Case]) -> tuple[str, ...]:
    """The subjects of cases that can be read.

    Raises:
        TrainingError: there are none; says why.
    """
    if everyone := subjects(cases):
        return everyone
    n = len(cases)
    raise TrainingError(
        f"{'the only case' if n == 1 else f'none of the {n} cases'} can{'not' * (n == 1)} be learned from: "
        f"{_reasons(unused(cases)) or 'there is none'}; expected one at least that can be read: mend them (segwise "
        "cases DATA lists them)"
    )


def _lost(found: Sequence[tuple[str, str]]) -> str:
    n = len(found)
    return f"{n} case{' is' if n == 1 else 's are'} not used: {_reasons(found)}" if n else ""


def _beside(cases: Sequence[Case]) -> str:
    """What else a message says where some cases cannot be read."""
    said = _lost(unused(cases))
    return said and f"; {said}"


def _reasons(found: Sequence[tuple[str, str]], *, most: int = 3) -> str:
    """ "s1, s4 (why); s2 (another reason)": cases by reason, of many the first ones."""
    groups: dict[str, list[str]] = {}
    for id_, reason in found:
        groups.setdefault(_general(id_, reason), []).append(id_)
    shown = [f"{_listed(ids)} ({reason})" for reason, ids in list(groups.items())[:most]]
    more = sum(map(len, list(groups.values())[most:]))
    return "; ".join([*shown, *([f"{more} more for other reasons"] if more else [])])


def _general(id_: str, reason: str) -> str:
    """A reason without what only names the case, so that equal ones are told once: "case.json: …", "*.npz: …"."""
    file, sep, said = reason.partition(": ")
    if not sep or " " in file:
        return reason
    return f"{file.rpartition('/')[2].replace(id_, '*')}: {said}"


def split(
    cases: Sequence[Case],
    *,
    seed: int = 0,
    left_out: Sequence[str] = (),
    fraction: float = 1.0,
    valid: float = VALIDATED,
) -> Split:
    """Draw a split.

    Args:
        cases: of one data set.
        seed: of the order.
        left_out: subjects that are kept for testing; one that is named twice counts once.
        fraction: share of the training subjects that are used; the first of the drawn order, so that a larger
            fraction holds all of a smaller one.
        valid: share of the subjects that the learning curve is measured on, one at least where there are three or
            more; 0 for none.

    Raises:
        TrainingError: a subject that is not there, or nobody is left to train on.
    """
    everyone, left_out = _readable(cases), tuple(dict.fromkeys(left_out))
    if strange := sorted(set(left_out) - set(everyone)):
        raise TrainingError(
            f"no subject {', '.join(strange)} to leave out; the data set has {_listed(everyone)}: name one of them"
            f"{_beside(cases)}"
        )
    if not 0 < fraction <= 1 or not 0 <= valid < 1:
        raise TrainingError(
            f"the fraction is {fraction:g} and the share for validation {valid:g}; expected a fraction above 0 and up "
            "to 1, and a share from 0 to below 1"
        )
    kept = [s for s in everyone if s not in set(left_out)]
    drawn = [kept[i] for i in np.random.default_rng([seed, 31]).permutation(len(kept))]
    n = max(1, round(valid * len(drawn))) if valid and len(drawn) >= 3 else 0
    checked, learned = drawn[:n], drawn[n:]
    if not learned:
        raise TrainingError(
            f"{len(everyone)} subject{'s' * (len(everyone) != 1)} and {len(left_out)} left out: nobody is left to "
            f"train on; expected one at least: add subjects or leave out fewer{_beside(cases)}"
        )
    return Split(_share(learned, fraction), tuple(checked), left_out)


def _share(learned: Sequence[str], fraction: float) -> tuple[str, ...]:
    """The first of the drawn order.

    Raises:
        TrainingError: less than one.
    """
    if fraction * len(learned) < 1:
        raise TrainingError(
            f"{fraction:.0%} of {len(learned)} training subjects is less than one subject; expected a fraction of "
            f"{1 / len(learned):.3g} at least"
        )
    return tuple(learned[: round(fraction * len(learned))])


def fold(cases: Sequence[Case], *, k: int, n: int, seed: int = 0, fraction: float = 1.0) -> Split:
    """Fold k of n: every subject is tested in one of them, whatever the fraction of the others that is trained on.

    Args:
        cases, seed, fraction: as `split`.
        k: from 0 on.
        n: at least 2.

    Raises:
        TrainingError: fewer subjects than folds, a fold that is not there, or no such fraction.
    """
    everyone = _readable(cases)
    if not 2 <= n <= len(everyone) or not 0 <= k < n:
        raise TrainingError(
            f"fold {k} of {n} with {len(everyone)} subject{'s' * (len(everyone) != 1)}; expected 2 folds or more, at "
            f"most as many as there are subjects, and a fold from 0 on{_beside(cases)}"
        )
    if not 0 < fraction <= 1:
        raise TrainingError(f"the fraction is {fraction:g}; expected one above 0 and up to 1")
    drawn = [everyone[i] for i in np.random.default_rng([seed, 31]).permutation(len(everyone))]
    test = drawn[k::n]
    return Split(_share([s for s in drawn if s not in set(test)], fraction), (), tuple(test))


def present(split: Split, cases: Sequence[Case], everything: Sequence[Case], *, path: Path) -> None:
    """Nothing, if every subject that a split names is there.

    Args:
        split: as it was read.
        cases: that can be learned from; those under train and valid must be among them.
        everything: all cases of the data set; those under test must be among them.
        path: of the split, for the message.

    Raises:
        TrainingError: one is not.
    """
    able, there = subjects(cases), subjects(everything)
    wrong = {part: sorted(set(getattr(split, part)) - set(able)) for part in ("train", "valid")}
    wrong["test"] = sorted(set(split.test) - set(there))
    named = [name for names in wrong.values() for name in names]
    if not named:
        return
    told = " and ".join(f"{_listed(names)} under {part}" for part, names in wrong.items() if names)
    near = [name for one in named[:3] for name in difflib.get_close_matches(one, sorted(set(there) - {one}), n=1)]
    hint = f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    asked = " with the structures and the modality asked for" if set(named) & set(there) else ""
    raise TrainingError(
        f"{path} names {told}, expected subjects of the data set{asked}, which are {_listed(able) or 'none'}{hint}; "
        f"mend the split{_beside(everything)}"
    )


def write(split: Split, folder: Path) -> Path:
    """Write `split.json`, whole or not at all; its path."""
    path = folder / FILE
    part = path.with_name(f".{FILE}.tmp")
    content = split.content | ({UNUSED: dict(split.unused)} if split.unused else {})
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def begun(out: Path) -> bool:
    """Something was learned in a folder already."""
    return any((out / name).exists() for name in BEGUN)


def apart(out: Path, data: Path) -> None:
    """Nothing, if the folder of a training is not in its data and holds no run.

    Raises:
        TrainingError: it is, or does.
    """
    if out.resolve().is_relative_to(data.resolve()):
        raise TrainingError(f"{out} lies in the data, {data}; nothing is written there: give a folder beside it")
    if (out / RUN).is_file():
        raise TrainingError(f"{out} holds a run ({RUN} there), not a model; give another folder")


def noted(split: Split, out: Path) -> None:
    """Write the split into the folder of a training.

    Raises:
        TrainingError: another one is there, or the folder cannot be written.
    """
    there = out / FILE
    if begun(out) and there.is_file() and _read(there) != split:
        raise TrainingError(
            f"{out} holds a training on other subjects ({FILE} there); give another folder, or the same split"
            f"{split.lost and f'; {split.lost}'}"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write(split, out)
    except OSError as error:
        raise TrainingError(f"{out} cannot be written ({error.strerror}); give another folder") from error


def read(path: Path) -> Split:
    """A split that was written, or that a user wrote.

    Raises:
        TrainingError: it is none, a subject is in two lists, or nobody is trained on.
    """
    found = _read(path)
    if not found.train:
        raise TrainingError(f"{path}: nobody to train on; expected subjects under train")
    return found


def lost(folder: Path) -> str:
    """The cases that the training in a folder does not use and why, in one line; "" where nothing says so."""
    try:
        return _read(folder / FILE).lost
    except TrainingError:
        return ""


def _read(path: Path) -> Split:
    """A split; where only generated persons are trained on, nobody is under train."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lists = {key: tuple(map(str, content.get(key, ()))) for key in ("train", "valid", "test")}
        said = content.get(UNUSED)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise TrainingError(
            f'{path} is no split ({error}); expected JSON such as {{"train": ["s1"], "valid": ["s2"], "test": []}}'
        ) from error
    named = [s for listed in lists.values() for s in listed]
    if twice := sorted({s for s in named if named.count(s) > 1}):
        raise TrainingError(f"{path}: {', '.join(twice)} is in the split twice; expected every subject once")
    left = tuple((str(id_), str(why)) for id_, why in said.items()) if isinstance(said, Mapping) else ()
    return Split(**lists, unused=left)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def named(cases: Sequence[Case], wanted: Sequence[str]) -> tuple[str, ...]:
    """Common names of the structures to learn.

    Raises:
        TrainingError: one is in no training case, or nothing is common to all.
    """
    listed = [{s.name for s in case.structures} for case in cases if not case.broken]
    everything = sorted(set().union(*listed))
    if wanted:
        found = []
        for word in wanted:
            own = next((s.name for case in cases if (s := case.structure(word)) is not None), None)
            if own is None:
                raise TrainingError(
                    f'no training case has a structure "{word}"; they have {", ".join(everything[:12])}'
                    f"{' …' if len(everything) > 12 else ''}"
                )
            found.append(own)
        return tuple(dict.fromkeys(found))
    common = sorted(set.intersection(*listed)) if listed else []
    if not common:
        raise TrainingError(
            "the training cases have no structure in common: say which to learn with --target; they have "
            f"{', '.join(everything[:12])}{' …' if len(everything) > 12 else ''}"
        )
    return tuple(common)
