"""A task → masks and records: the one loop of Segwise, say ↔ next.

    read the case → session (encode) → ledger: first → say(all targets) → masks to the store, rounds to records
                                         ledger: next  ↺ until content

Seconds are taken after a warm-up: before its first task with a model, a worker asks that model once about a crop of at
most 3×32×32 voxels, with a store of its own, and forgets the answer. A 3D model whose card says that a task takes more
than 5 s is not warmed up: starting up is little beside that, and one that conforms every volume would run twice.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segwise import assemble
from segwise.assemble import Built
from segwise.case import Case, Target
from segwise.errors import ConditionError, NoSuchStructure, PromptError, RunError, SegwiseError
from segwise.evaluate import conditions, cost, descriptors, inventory, references
from segwise.evaluate.cost import timed
from segwise.evaluate.ledger import Key, Ledger
from segwise.evaluate.masks import Masks
from segwise.geometry import Array, Volume
from segwise.prompt import Prompt
from segwise.records.types import Record, Task, record_of
from segwise.segmenter import Ask, Prediction
from segwise.session import Session
from segwise.spec import seed_of
from segwise.store import FeatureStore

WARM_SHAPE = (3, 32, 32)
WARM_BELOW_S = 5.0
LONG_S = 60.0  # a first call of a task this long costs little more than a second one


def _cannot(task: Task, reason: str) -> list[Record]:
    info = assemble.model_info(task.model)
    facts: dict[str, Any] = {"given": dict(info.given), "resolved": dict(info.resolved), "reason": reason}
    return [record_of(task, target, 0, "skipped", **facts) for target in task.targets]


@dataclass(frozen=True)
class Setup:
    """Makes a worker in its process; travels to it.

    Attributes:
        run: folder of the run.
        features: folder of encoded features, or None for memory only.
    """

    run: Path
    features: Path | None = None

    def __call__(self) -> Worker:
        """A worker."""
        return Worker(self)


class Worker:
    """Does tasks, one after the other; keeps the last model, the last volume and the store of features."""

    def __init__(self, setup: Setup) -> None:
        self._store = FeatureStore(folder=setup.features)
        self._masks = Masks(setup.run / "masks")
        self._ledger = Ledger(setup.run / "ledger")
        self._cases: dict[tuple[str, str], dict[str, Case]] = {}
        self._built: dict[str, Built] = {}
        self._volume: dict[tuple[str, str, str], tuple[Volume, float]] = {}
        self._warm: dict[str, str] = {}

    def __call__(self, task: Task) -> list[Record]:
        """What became of a task; nothing is appended to the run here."""
        self._make_room(task.model)
        with cost.Peak() as peak:
            try:
                play = self._play(task)
            except ConditionError as error:  # nothing broke: this case cannot show it
                return _cannot(task, str(error))
            play.run()
        return [self._finished(record, play, peak) for record in play.records]

    def _play(self, task: Task) -> _Play:
        case = self._case(task)
        volume, read_s = self._read(task, case)
        built = self._model(task.model)
        targets = references.targets(case, task.targets, volume.grid)
        seconds = {"read_s": read_s}
        store = cost.OneSession(self._store)
        play = _Play(task, case, built, volume, targets, self._ledger, self._masks, store, seconds)
        if task.model not in self._warm:
            self._warm[task.model] = play.warm_up()
        return play

    def _case(self, task: Task) -> Case:
        place = (task.root, task.layout)
        if place not in self._cases:
            self._cases[place] = {c.id: c for c in inventory.find(Path(task.root), task.layout)[1]}
        if task.case not in self._cases[place]:
            raise RunError(f"case {task.case} is no longer in {task.root}")
        return conditions.under(self._cases[place][task.case], task.condition)

    def _read(self, task: Task, case: Case) -> tuple[Volume, float]:
        key = (task.root, task.case, task.condition)
        if key not in self._volume:
            self._volume.clear()
            self._volume[key] = timed(case.volume)
        return self._volume[key]

    def _make_room(self, spec: str) -> None:
        """Forget models of another base and their features, whose memory would count as this one's."""
        base = assemble.base_name(spec)
        others = [own for own in self._built if assemble.base_name(own) != base]
        if others:
            for own in others:
                del self._built[own]
            self._store.clear()
            cost.give_back()

    def _model(self, spec: str) -> Built:
        if spec not in self._built:
            self._built[spec] = assemble.build(spec)
        return self._built[spec]

    def _finished(self, record: Record, play: _Play, peak: cost.Peak) -> Record:
        built = play.built
        shared = {
            "card": asdict(built.info.card),
            "card_digest": built.info.digest,
            "segmenter": built.segmenter.digest,
            "encoder": built.segmenter.encoder,
            "weights": built.weights,
            "versions": cost.versions(),
            "git": cost.git_revision(),
            "warm_up": self._warm[play.task.model],
            "quality": play.case.quality,
            "licence": play.case.licence,
            "notes": list(play.case.notes),
            "facts": dict(play.case.facts),
            "spacing_mm": [round(float(v), 4) for v in play.volume.grid.spacing_mm],
            "volume": play.volume.digest,
            "grid": play.volume.grid.digest,
            "prompter_version": play.prompter.info.version,
            "condition": conditions.axis_of(play.task.condition),
            "image": descriptors.of(play.volume),
        }
        more = {"device_bytes": peak.device_bytes} if peak.device_bytes else {}
        own = {**record.provenance, **more}
        return Record(**{**vars(record), "peak_bytes": peak.n_bytes, "provenance": {**shared, **own}})


@dataclass
class _Answer:
    """A prediction with what it cost, or why there is none."""

    prediction: Prediction | None
    seconds: dict[str, float]
    status: str = "done"
    reason: str = ""
    traceback: str = ""


@dataclass
class _Play:
    """One task being played."""

    task: Task
    case: Case
    built: Built
    volume: Volume
    targets: Mapping[str, Target]
    ledger: Ledger
    masks: Masks
    store: cost.OneSession
    opening_s: dict[str, float]
    records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prompter = assemble.prompter(self.task.prompter)
        self.session_seed = seed_of("session", self.task.case, self.task.seed)
        self.digests = {name: references.digest_of(target.mask) for name, target in self.targets.items()}
        voxel_ml = float(np.prod(self.volume.grid.spacing_mm)) / 1000
        self.volumes_ml = {name: round(int(t.mask.sum()) * voxel_ml, 3) for name, t in self.targets.items()}

    def run(self) -> None:
        """All rounds of all targets."""
        session, encode_s = timed(
            lambda: Session(self.built.segmenter, self.volume, store=self.store, seed=self.session_seed)
        )
        live: dict[str, Prompt] = {}
        prompt_s: dict[str, float] = {}
        for name in self.targets:
            prompt, prompt_s[name] = timed(partial(self._prompt, name, 0))
            if prompt is None:
                self._note(name, 0, "skipped", reason="the reference is empty: nothing to prompt")
            else:
                live[name] = prompt
        self.opening_s["encode_s"] = encode_s
        number = 0
        while live:
            live, prompt_s = self._round(session, number, live, prompt_s)
            number += 1

    def _round(
        self, session: Session, number: int, live: dict[str, Prompt], prompt_s: dict[str, float]
    ) -> tuple[dict[str, Prompt], dict[str, float]]:
        """Say, store, and what is to be said next, with the seconds of drawing it."""
        answers = self._say(session, live)
        after: dict[str, Prompt] = {}
        after_s: dict[str, float] = {}
        for name, answer in answers.items():
            shared = {stage: s / len(live) for stage, s in self.opening_s.items()} if number == 0 else {}
            seconds = {"read_s": 0.0, **answer.seconds, "prompt_s": prompt_s[name], "write_s": 0.0}
            seconds |= {stage: seconds.get(stage, 0.0) + s for stage, s in shared.items()}
            if answer.prediction is None:
                why = {"reason": answer.reason, "traceback": answer.traceback}
                self._note(name, number, answer.status, prompt=live[name], seconds=seconds, **why)
                continue
            prediction = answer.prediction
            mask, mask_s = timed(partial(prediction.mask, self.volume.grid))
            seconds["decode_s"] += mask_s
            address, seconds["write_s"] = timed(partial(self.masks.put, mask, self.volume.grid))
            quality = None if prediction.quality is None else prediction.quality[prediction.best]
            facts = {"mask": address, "quality": _finite(quality), "presence": _finite(prediction.presence)}
            self._note(name, number, "done", prompt=live[name], seconds=seconds, **facts)
            said, spent = timed(partial(self._prompt, name, number + 1, live[name], mask, address))
            if said is not None:
                after[name], after_s[name] = said, spent
        return after, after_s

    def _say(self, session: Session, live: Mapping[str, Prompt]) -> dict[str, _Answer]:
        """All targets in one call; if the model refuses, one by one, so that one target does not take the others."""
        try:
            predictions, seconds = self._timed_say(session, live)
            shares = {stage: s / len(live) for stage, s in seconds.items()}
            return {name: _Answer(predictions[name], dict(shares)) for name in live}
        except Exception:
            return {name: self._say_one(session, name, prompt) for name, prompt in live.items()}

    def _say_one(self, session: Session, name: str, prompt: Prompt) -> _Answer:
        none = {"encode_s": 0.0, "decode_s": 0.0}
        try:
            predictions, seconds = self._timed_say(session, {name: prompt})
            return _Answer(predictions[name], seconds)
        except (NoSuchStructure, PromptError) as error:  # it refuses; what breaks is a failure
            return _Answer(None, none, "skipped", str(error))
        except SegwiseError as error:
            return _Answer(None, none, "failed", str(error), traceback.format_exc())
        except Exception as error:
            return _Answer(None, none, "failed", f"{type(error).__name__}: {error}", traceback.format_exc())

    def _timed_say(
        self, session: Session, prompts: Mapping[str, Prompt]
    ) -> tuple[dict[str, Prediction], dict[str, float]]:
        """Encoding counts at what it costs when nothing is stored; decoding is the rest of the call."""
        charged, spent = self.store.charged_s, self.store.spent_s
        predictions, whole = timed(lambda: session.say(prompts))
        decode = max(0.0, whole - (self.store.spent_s - spent))
        return predictions, {"encode_s": self.store.charged_s - charged, "decode_s": decode}

    def _prompt(
        self, name: str, number: int, before: Prompt | None = None, mask: Array | None = None, address: str = ""
    ) -> Prompt | None:
        """The prompt of a round: the ledger's, else drawn."""
        task, target = self.task, self.targets[name]
        seed = seed_of("prompt", task.case, name, task.seed)
        key = Key(
            prompter=task.prompter,
            version=self.prompter.info.version,
            seed=task.seed,
            dataset=task.dataset,
            case=task.case,
            target=name,
            reference=self.digests[name],
            round=number,
            mask=address,
            before=before.digest if before else "",
        )
        if before is None or mask is None:
            return self.ledger.prompt(key, lambda: self.prompter.first(target, seed))
        return self.ledger.prompt(key, lambda: self.prompter.next(target, before, mask, seed))

    def _note(
        self,
        name: str,
        number: int,
        status: str,
        *,
        prompt: Prompt | None = None,
        seconds: dict[str, float] | None = None,
        **facts: Any,
    ) -> None:
        info = self.built.info
        seeds = {"prompt": seed_of("prompt", self.task.case, name, self.task.seed), "session": self.session_seed}
        self.records.append(
            record_of(
                self.task,
                name,
                number,
                status,
                modality=self.case.modality,
                prompt=prompt.digest if prompt else "",
                n_interactions=prompt.n_interactions if prompt else 0,
                seconds={stage: round(s, 6) for stage, s in (seconds or {}).items()},
                given=dict(info.given),
                resolved=dict(info.resolved),
                provenance={
                    "reference": self.digests[name],
                    "reference_ml": self.volumes_ml[name],
                    "seeds": seeds,
                    "label": references.label(self.case, name),
                },
                **facts,
            )
        )

    def warm_up(self) -> str:
        """Ask the model once about a tiny crop; what was done, in words."""
        if self.built.info.card.seconds_hint >= LONG_S:
            return f"none: a task takes about {self.built.info.card.seconds_hint:g} s whatever the size of the crop"
        card = self.built.info.card
        if card.dims == 3 and card.seconds_hint > WARM_BELOW_S:
            return f"none: a task takes about {card.seconds_hint:g} s"
        target = next((t for t in self.targets.values() if t.mask.any()), None)
        if target is None:
            return "none: no target in the first case"
        prompt = self._prompt(target.name, 0)
        voxels = np.argwhere(target.mask)
        centre = voxels[len(voxels) // 2]
        low = np.maximum(centre - np.array(WARM_SHAPE) // 2, 0)
        high = np.minimum(low + WARM_SHAPE, self.volume.grid.shape)
        cut = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        crop = Volume.of(self.volume.array[(slice(None), *cut)], self.volume.grid.crop(low, high), self.volume.channels)
        try:
            state = self.built.segmenter.encode(crop, store=FeatureStore())
            self.built.segmenter.segment(state, [Ask(prompt or Prompt())])
        except Exception as error:  # a crop this small may be too little for a model; only the timing is less even
            return f"none: {type(error).__name__}"
        return f"one call on a crop of {'x'.join(map(str, crop.grid.shape))}"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
