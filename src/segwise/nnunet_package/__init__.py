"""nnU-Net trained by its own package on a user's labelled cases: what `segwise train nnunet DATA` does.

Cases become its raw data set in OUT/nnunet, its fingerprint, plans, preprocessing and trainer run as they are, in a
process of their own and within a stated budget; what comes out is a model folder: `-m ./OUT`.

Source: Isensee et al., nnU-Net, Nat Methods 2021 (arXiv 1809.10486), and the package nnunetv2.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segwise.errors import TrainingError
from segwise.learn import Chosen, Who, cases_of, told
from segwise.nnunet_package import environment, raw
from segwise.training import checkpoint, loop
from segwise.training.log import Log
from segwise.weights import folders

SET, PLANS = "Dataset001_segwise", "nnUNetPlans.json"
WEIGHTS, STATE = "checkpoint.pth", "state.json"
EPOCH, EPOCHS = 250, 1000  # iterations an epoch, and epochs, of nnU-Net's own schedule
PARTS = 20  # epochs that a short budget is cut into
Tick = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long nnU-Net trains. Batch, patch, spacing, loss and precision are its own plans'.

    Attributes:
        steps: optimiser steps in all; 250,000 are nnU-Net's own.
        epochs: they are cut into; None: of 250 steps as nnU-Net's own, or 20 where that gives fewer.
        rate: first learning rate; None: nnU-Net's own.
        seed: of the weights; its augmentations draw from others, so no two trainings are the same.
        configuration: "3d_fullres" or "2d" or "3d_lowres"; "" for the first of 3d_fullres and 2d that it plans.
    """

    steps: int = 1000
    epochs: int | None = None
    rate: float | None = None
    seed: int = 0
    configuration: str = ""

    @property
    def schedule(self) -> tuple[int, int]:
        """(epochs, steps an epoch); at least the steps asked for, a multiple of an epoch's."""
        each = min(EPOCH, max(1, math.ceil(self.steps / PARTS)))
        if self.epochs is not None:
            each = max(1, math.ceil(self.steps / self.epochs))
        return self.epochs or math.ceil(self.steps / each), each


class _State:
    """How far a folder is: the parts that are done, kept on disk."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path, self._content = path, content

    @classmethod
    def of(cls, work: Path, key: str) -> _State:
        """The state of a folder, new if it has none.

        Raises:
            TrainingError: it is of another training.
        """
        path = work / STATE
        try:
            work.mkdir(parents=True, exist_ok=True)
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"key": key}
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path} cannot be read ({error}); give another folder") from error
        if content.get("key") != key:
            raise TrainingError(
                f"{work.parent} holds another training of nnU-Net; give another folder, or its settings"
            )
        return cls(path, content)

    def done(self, part: str) -> Any:
        """What is noted of a part; 0 if nothing is."""
        return self._content.get(part, 0)

    def note(self, **parts: Any) -> None:
        """Keep that parts are done."""
        self._content |= parts
        part = self._path.with_name(f".{STATE}.tmp")
        part.write_text(json.dumps(self._content), encoding="utf-8")
        part.replace(self._path)


@dataclass
class _Job:
    """A training in its folder: how its stages run, and what they tell on the way."""

    out: Path
    python: Path
    variables: Mapping[str, str]
    state: _State
    log: Log
    schedule: tuple[int, int]
    progress: loop.Progress | None
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.before, self.seconds, self.start = self.state.done("epoch"), self.state.done("seconds"), time.monotonic()

    @property
    def work(self) -> Path:
        return self.out / "nnunet"

    def run(self, stage: str, **said: Any) -> None:
        """One stage."""
        log, self.start = self.work / "log.txt", time.monotonic()
        environment.run(self.python, stage, said, variables=self.variables, log=log, told=self._told)

    def _told(self, what: Mapping[str, Any]) -> None:
        """A line of the training: an epoch, or its end."""
        self.found |= what
        (epochs, each), epoch = self.schedule, int(what["epoch"])
        spent = time.monotonic() - self.start
        self.state.note(epoch=epoch, seconds=self.seconds + spent, finished=bool(what.get("finished")))
        if "loss" not in what:
            return
        measures = {key: what[key] for key in ("loss", "valid_dsc") if math.isfinite(what[key])}
        self.log.write(epoch, epoch * each, self.seconds + spent, measures)
        if self.progress is not None:
            left = spent / max(1, epoch - self.before) * (epochs - epoch)
            self.progress(epoch * each, epochs * each, left, measures)


def fits(model: str) -> bool:
    """Whether a model of that spec is trained here, not by Segwise's loop."""
    return model.strip() == "nnunet"


def ready(out: Path) -> None:
    """Nothing, if nnU-Net is there for a training into a folder.

    Raises:
        TrainingError: it is not.
    """
    environment.python_of(None, out)


def train(
    who: Who,
    out: Path,
    budget: Budget,
    *,
    env: Path | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    threads: int | None = None,
    command: Sequence[str] = (),
    tick: Tick | None = None,
    progress: loop.Progress | None = None,
    study: Mapping[str, str | int] | None = None,
) -> loop.Outcome:
    """Convert, plan, preprocess and train, or go on where the folder stands; the model folder is written.

    Args:
        who: see `learn.Who`.
        out: the model folder to be.
        budget: of the training.
        env: nnU-Net's environment; None: see `environment.python_of`.
        minutes: of the training proper, after which it stops at the end of an epoch; the next call goes on.
        device: "cpu", "cuda", "cuda:1", "mps".
        threads: of the training; None: one.
        command: what the user typed.
        tick: told how far the cases are, and which stage runs.
        progress: told after every epoch.
        study: which part of a study this is, for model.json.

    Raises:
        TrainingError: nnU-Net is not there or a stage of it failed, the cases cannot be learned from, or the folder
            holds another training.
    """
    python, version = environment.python_of(env, out)
    epochs, each = budget.schedule
    with checkpoint.only_writer(out):
        chosen = cases_of(who, out)
        state = _State.of(out / "nnunet", _key(chosen, budget))
        variables, done = _variables(out, device, threads), state.done("epoch")
        with contextlib.closing(Log(out, keep=done, step=done * each)) as log:
            job = _Job(out, python, variables, state, log, (epochs, each), progress)
            if not (state.done("finished") and (out / WEIGHTS).is_file()):
                configuration = _planned(job, chosen, budget, tick)
                _say(tick, "nnU-Net trains")
                job.run(
                    "train",
                    **{"configuration": configuration, "epochs": epochs, "iterations": each, "rate": budget.rate},
                    **{"seed": budget.seed, "threads": threads or 1, "minutes": minutes, "again": _begun(job.work)},
                    **{"device": device.split(":", maxsplit=1)[0], "into": str((out / WEIGHTS).resolve())},
                )
        known: dict[str, Any] = {"command": shlex.join(command), "versions": {**loop.versions(), "nnunetv2": version}}
        known |= {"date": f"{datetime.now(UTC):%Y-%m-%d}", "device": device, "steps": state.done("epoch") * each}
        known |= {"epochs": epochs, "seed": budget.seed, "seconds": round(state.done("seconds"))} | {**(study or {})}
        files = _folder(out, chosen, known)
    measures = {key: value for key, value in job.found.items() if key == "valid_dsc" and math.isfinite(value)}
    steps, finished = state.done("epoch") * each, bool(state.done("finished"))
    return loop.Outcome(steps, finished, float(state.done("seconds")), files, measures)


def _begun(work: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return any((work / "results").glob("*/*/fold_0/checkpoint_*.pth"))


def _planned(job: _Job, chosen: Chosen, budget: Budget, tick: Tick | None) -> str:
    """Everything before the training, each part once; the configuration."""
    state = job.state
    place, ready = job.work / "raw" / SET, job.work / "preprocessed" / SET
    if not state.done("raw"):
        splits = raw.write(place, chosen.train, chosen.valid, chosen.names, tick=tick)
        state.note(raw=splits)
    if not state.done("plan"):
        _say(tick, "nnU-Net plans")
        job.run("plan", configuration=budget.configuration)
        state.note(plan=_configuration(ready / PLANS, budget.configuration))
    if not state.done("preprocess"):
        _say(tick, "nnU-Net preprocesses")
        job.run("preprocess", configuration=state.done("plan"))
        state.note(preprocess=1)
    splits_file = json.dumps(state.done("raw"), indent=1)
    (ready / "splits_final.json").write_text(splits_file + "\n", encoding="utf-8")
    return str(state.done("plan"))


def _configuration(plans: Path, wanted: str) -> str:
    known = json.loads(plans.read_text(encoding="utf-8"))["configurations"]
    found = next((name for name in ((wanted,) if wanted else ("3d_fullres", "2d")) if name in known), None)
    if found is None:
        raise TrainingError(f'nnU-Net plans no configuration "{wanted}" for these cases; it has {", ".join(known)}')
    return found


def _folder(out: Path, chosen: Chosen, known: Mapping[str, Any]) -> tuple[Path, ...]:
    folders.write(out, spec="nnunet", files={WEIGHTS: None}, data=told(chosen), trained=dict(known))
    return out / WEIGHTS, out / folders.CARD_FILE


def _variables(out: Path, device: str, threads: int | None) -> dict[str, str]:
    work = (out / "nnunet").resolve()
    found = {f"nnUNet_{part}": str(work / part) for part in ("raw", "preprocessed", "results")}
    for part in found.values():
        Path(part).mkdir(parents=True, exist_ok=True)
    found |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": str(threads or 1)}
    _, _, number = device.partition(":")
    return found | ({"CUDA_VISIBLE_DEVICES": number} if number else {})


def _key(chosen: Chosen, budget: Budget) -> str:
    cases = [case.id for case in (*chosen.train, *chosen.valid)]
    said = repr((chosen.dataset, chosen.names, chosen.split, cases, budget))
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def _say(tick: Tick | None, words: str) -> None:
    if tick is not None:
        tick(0, 0, words)
