"""One scan under a person's hands from the command line: each call says or takes back one thing, a file remembers all.

segwise annotate liver.json scan.nii.gz -m litemedsam --target liver --box 10,40,40,30,90,90
segwise annotate liver.json scan.nii.gz --do undo
segwise annotate liver.json scan.nii.gz --target liver --do accept -o mask.nii.gz
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwise import anatomy, assemble, io
from segwise.asked import marks_of, must_be_inside, named
from segwise.errors import FileError, PromptError
from segwise.geometry import Volume
from segwise.prompt import Prompt, Text
from segwise.segmenter import Ask, Prediction, Segmenter, State, Store
from segwise.session import Session
from segwise.session import file as kept
from segwise.store import FeatureStore

DEEDS = ("say", "undo", "redo", "accept", "resume")


@dataclass(frozen=True)
class Turn:
    """What one call did and how things stand.

    Attributes:
        session: the file that keeps the session.
        model: its spec.
        did: in words.
        targets: name -> voxels, ml, rounds, marks, accepted.
        path: the mask file that was written, or None.
        seconds: of the model.
    """

    session: Path
    model: str
    did: str
    targets: Mapping[str, Mapping[str, Any]]
    path: Path | None
    seconds: float


def annotate(
    session: Path,
    image: Path,
    *,
    model: str | None = None,
    target: str | None = None,
    deed: str = "say",
    boxes: Sequence[str] = (),
    points: Sequence[str] = (),
    strokes: Sequence[str] = (),
    text: str | None = None,
    mm: bool = False,
    modality: str = "",
    out: Path | None = None,
    **reading: Any,
) -> Turn:
    """Open or begin a session, do one thing, and keep it.

    Args:
        session: the file; begun if it is not there.
        image: the scan, the same in every call.
        model: spec; needed to begin, another one later switches the model and says to it again what is not accepted.
            The same one again does so if its weights are others now.
        target: the object; the last one spoken about if left out, else "target".
        deed: "say" (the marks given, none only shows how things stand), "undo", "redo", "accept" or "resume".
        boxes, points, strokes, text, mm, modality, reading: as `api.segment`.
        out: where to write the label map of all objects, or None.

    Raises:
        PromptError: a deed that cannot be done, marks that the model does not take. The session stays as it was.
        FileError: the scan or the session cannot be read, the session is of another scan, another program has changed
            it meanwhile, or the masks cannot be written (said before anything is asked).
        WeightsError: the model's weights are missing; the masks can be had without them, and another model named.
    """
    if out is not None:
        io.must_be_free(out, image)
    scan = io.read(image, modality=modality, **reading)
    volume = named(scan.volume, modality)
    begun = session.exists()
    marks = marks_of(volume.grid, boxes=boxes, points=points, strokes=strokes, mm=mm)
    spoken = (*marks, *([Text(anatomy.resolve(text).name)] if text else []))
    _must_be_possible(deed, Prompt(spoken), volume, model or (kept.read(session).model if begun else None))
    needed = bool(spoken) or deed not in ("say", "accept")
    start = time.perf_counter()
    opened, switched = _opened(session, volume, model, begun=begun, needed=needed)
    did = (f"switched to {model}; " if switched else "") + _done(opened, deed, target, Prompt(spoken))
    targets = _state(opened)
    seconds = time.perf_counter() - start
    if not begun and not spoken:
        opened.save(session)
    if out is not None:
        _write(opened, scan, out)
    return Turn(session, opened.model, did, targets, out, seconds)


def _opened(session: Path, volume: Volume, model: str | None, *, begun: bool, needed: bool) -> tuple[Session, bool]:
    """The session, and whether it was switched to another model or other weights."""
    store = FeatureStore()
    if not begun:
        if model is None:
            raise PromptError(
                f"{session} is not there yet; a new session needs a model: -m MODEL (see: segwise list models)"
            )
        return Session(assemble.segmenter(model), volume, store=store, model=model, autosave=session), False
    saved = kept.read(session)
    if model is None and not needed:
        return Session.reopen(session, _Asleep(saved.segmenter), volume, store=store), False
    segmenter = assemble.segmenter(model or saved.model)
    switched = model is not None and (saved.model, saved.segmenter) != (model, segmenter.digest)
    return Session.reopen(session, segmenter, volume, store=store, model=model), switched


class _Asleep(Segmenter):
    """Stands for a model that is not loaded, where the masks that the file keeps are enough."""

    def __init__(self, digest: str) -> None:
        self.digest = self.encoder = digest

    def encode(self, volume: Volume, *, store: Store) -> State:
        """The volume as it is."""
        return State(volume, volume.grid, store)

    def segment(self, state: State, asks: Sequence[Ask]) -> list[Prediction]:
        """Never answers: the file keeps a mask of every target."""
        raise FileError("the session file lacks a mask that it should keep; name the model (-m) to make it again")


def _done(session: Session, deed: str, target: str | None, spoken: Prompt) -> str:
    if deed == "undo":
        return f"took back the last word about {session.undo(target)}"
    if deed == "redo":
        return f"said again what was taken back of {session.redo(target)}"
    name = target or (list(session.rounds[-1].prompts)[-1] if session.rounds else "target")
    if deed in ("accept", "resume"):
        (session.accept if deed == "accept" else session.resume)(name)
        return f"{deed}ed {name}".replace("resumeed", "resumed")
    if not spoken.marks:
        return "nothing new was said"
    before = session.prompt(name) or Prompt()
    session.say({name: before.also(*spoken.marks)})
    return f"asked about {name}"


def _must_be_possible(deed: str, spoken: Prompt, volume: Volume, model: str | None) -> None:
    """Refuse what cannot be done before anything is loaded, switched or kept."""
    if deed not in DEEDS:
        raise PromptError(f'no deed "{deed}"; expected one of {", ".join(DEEDS)}')
    if deed != "say" and spoken.marks:
        raise PromptError(f"--do {deed} stands alone; say marks in a call of their own")
    if model is not None and spoken.marks:
        takes = assemble.model_info(model).card.takes
        if refused := sorted(spoken.kinds - set(takes)):
            raise PromptError(f"{model} does not take {' and '.join(refused)}; it takes {', '.join(takes)}")
        must_be_inside(spoken, volume.grid)


def _state(session: Session) -> dict[str, dict[str, Any]]:
    voxel_ml = abs(float(np.linalg.det(session.volume.grid.affine[:3, :3]))) / 1000
    found: dict[str, dict[str, Any]] = {}
    for name, mask in session.masks().items():
        voxels = int(mask.array.sum())
        prompt = session.prompt(name)
        found[name] = {
            "voxels": voxels,
            "ml": voxels * voxel_ml,
            "rounds": sum(name in spoken.prompts for spoken in session.rounds),
            "interactions": prompt.n_interactions if prompt else 0,
            "accepted": name in session.accepted,
        }
    return found


def _write(session: Session, scan: Any, out: Path) -> None:
    masks = session.masks()
    labels = {i + 1: name for i, name in enumerate(masks)}
    painted = np.zeros(session.volume.grid.shape, dtype=np.uint16)
    for label, name in labels.items():
        painted[masks[name].array[0]] = label
    io.write_mask(out, painted, scan.header, names=labels)
