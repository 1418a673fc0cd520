"""One scan under a person's hands from the command line: each call says or takes back one thing, a file remembers all.

segwise annotate liver.json scan.nii.gz -m litemedsam --target liver --box 10,40,40,30,90,90
segwise annotate liver.json scan.nii.gz --undo
segwise annotate liver.json scan.nii.gz --target liver --accept -o mask.nii.gz
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
from segwise.errors import PromptError
from segwise.geometry import Volume
from segwise.prompt import Prompt, Text
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
        model: spec; needed to begin, another one later switches the model and says everything to it again.
        target: the object; the last one spoken about if left out, else "target".
        deed: "say" (the marks given, none only shows how things stand), "undo", "redo", "accept" or "resume".
        boxes, points, strokes, text, mm, modality, reading: as `api.segment`.
        out: where to write the label map of all objects, or None.

    Raises:
        PromptError: a deed that cannot be done, marks that the model does not take. The session stays as it was.
        FileError: the scan or the session cannot be read, or the session is of another scan.
    """
    scan = io.read(image, modality=modality, **reading)
    volume = named(scan.volume, modality)
    begun = session.exists()
    opened = _opened(session, volume, model, begun=begun)
    start = time.perf_counter()
    switched = begun and model is not None and model != opened.model
    if model is not None and switched:
        opened.switch(assemble.segmenter(model), model=model)
    marks = marks_of(volume.grid, boxes=boxes, points=points, strokes=strokes, mm=mm)
    spoken = (*marks, *([Text(anatomy.resolve(text).name)] if text else []))
    did = (f"switched to {model}; " if switched else "") + _done(opened, deed, target, Prompt(spoken))
    targets = _state(opened)
    seconds = time.perf_counter() - start
    if not begun and not spoken:
        opened.save(session)
    if out is not None:
        _write(opened, scan, out)
    return Turn(session, opened.model, did, targets, out, seconds)


def _opened(session: Path, volume: Volume, model: str | None, *, begun: bool) -> Session:
    store = FeatureStore()
    if begun:
        return Session.reopen(session, assemble.segmenter(kept.read(session).model), volume, store=store)
    if model is None:
        raise PromptError(
            f"{session} is not there yet; a new session needs a model: -m MODEL (see: segwise list models)"
        )
    return Session(assemble.segmenter(model), volume, store=store, model=model, autosave=session)


def _done(session: Session, deed: str, target: str | None, spoken: Prompt) -> str:
    if deed not in DEEDS:
        raise PromptError(f'no deed "{deed}"; expected one of {", ".join(DEEDS)}')
    if deed != "say" and spoken.marks:
        raise PromptError(f"--{deed} stands alone; say marks in a call of their own")
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
    _must_be_taken(session, spoken)
    must_be_inside(spoken, session.volume.grid)
    before = session.prompt(name) or Prompt()
    session.say({name: before.also(*spoken.marks)})
    return f"asked about {name}"


def _must_be_taken(session: Session, spoken: Prompt) -> None:
    takes = assemble.model_info(session.model).card.takes
    if refused := sorted(spoken.kinds - set(takes)):
        raise PromptError(f"{session.model} does not take {' and '.join(refused)}; it takes {', '.join(takes)}")


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
