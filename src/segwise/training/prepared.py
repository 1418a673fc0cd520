"""Labelled cases as a net's frame prepares them, kept on disk: read once, cut from often.

A case costs seconds to read and resample and a patch of it microseconds. What is prepared lies in files under a digest
of the frame, the image and the labels asked for, so that a changed label file or another spacing is prepared anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segwise.case import Case
from segwise.errors import SegwiseError, TrainingError
from segwise.geometry import Array, Channel, Grid, Volume, regrid
from segwise.segmenter import Frame

PLACES = 2000  # voxels of each structure that are kept to centre patches on
_CODE = "prepared-1"
Tick = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Prepared:
    """A case on disk. Opening it maps files into memory; nothing is read before it is cut.

    Attributes:
        folder: where its files lie.
        id, subject: of the case.
        grid: of the prepared volume.
        channels: of the volume.
        names: of the structures asked for, in the order of their labels from 1 on.
        there: which of them have voxels here.
        known: which of them this case has a reference for; the others count as not there.
    """

    folder: Path
    id: str
    subject: str
    grid: Grid
    channels: tuple[Channel, ...]
    names: tuple[str, ...]
    there: tuple[str, ...]
    known: tuple[str, ...]

    @property
    def volume(self) -> Volume:
        """As the frame prepared it; its digest is the folder's name."""
        array = np.load(self.folder / "image.npy", mmap_mode="r")
        return Volume(array, self.grid, self.channels, self.folder.name)

    @property
    def labels(self) -> Array:
        """uint8 [D, H, W]: 0, or 1 + the structure's place in `names`; where several claim a voxel the last one."""
        return np.asarray(np.load(self.folder / "labels.npy", mmap_mode="r"))

    def places(self, name: str) -> Array:
        """int [N, 3]: some voxels of a structure, at most PLACES."""
        return np.asarray(np.load(self.folder / f"places_{self.names.index(name)}.npy"))


def prepare(
    cases: Sequence[Case],
    frame: Frame[Any],
    names: Sequence[str],
    into: Path,
    *,
    tick: Tick | None = None,
    all_of_them: bool = True,
) -> list[Prepared]:
    """All cases, prepared; those that are there already are taken as they are.

    Args:
        cases: with references.
        frame: of the net.
        names: structures that the net is to learn.
        into: folder of the files, made if need be.
        tick: told (cases done, all, id).
        all_of_them: every structure must be in one case at least.

    Raises:
        TrainingError: a case cannot be read, its image is of one value, or none has any of the structures.
    """
    found = []
    for i, case in enumerate(cases):
        if tick is not None:
            tick(i, len(cases), case.id)
        found.append(_one(case, frame, tuple(names), into))
    if not all_of_them:
        return found
    absent = [name for name in names if not any(name in one.there for one in found)]
    if cases and len(absent) == len(names):
        raise TrainingError(
            f"none of the {len(cases)} cases has any voxel of {', '.join(names)}; expected labels of them: look at "
            "segwise cases DATA"
        )
    if absent:
        raise TrainingError(
            f"{', '.join(absent)} is in none of the {len(cases)} training cases; expected every structure in one at "
            "least: leave it out with --target, or choose another split"
        )
    return found


def _one(case: Case, frame: Frame[Any], names: tuple[str, ...], into: Path) -> Prepared:
    try:
        volume = case.volume()
        asked = [name for name in names if case.structure(name) is not None]
        masks = case.targets(tuple(asked), volume.grid) if asked else []
    except SegwiseError as error:
        raise TrainingError(f"case {case.id} cannot be read: {error}") from error
    low, high = float(volume.array.min()), float(volume.array.max())
    if low == high:
        raise TrainingError(
            f"case {case.id}: every voxel of its image is {low:g}, expected a scan; mend it, or keep the case out of "
            "the data set"
        )
    key = hashlib.blake2b(digest_size=12)
    for word in (_CODE, frame.digest, volume.digest, names):
        key.update(repr(word).encode())
    for target in masks:
        key.update(np.packbits(target.mask).tobytes())
    folder = into / f"{_plain(case.id)}-{key.hexdigest()}"
    found = _whole(folder)
    if found is None:
        _write(folder, case, frame, names, asked, volume, [target.mask for target in masks])
        found = opened(folder)
    return found


def _whole(folder: Path) -> Prepared | None:
    """What lies in a folder, None if that is nothing, or damaged: it is prepared anew then."""
    try:
        found = opened(folder)
        fits = found.volume.array.shape[1:] == found.labels.shape == found.grid.shape
        return found if fits and all(found.places(name).shape[1] == 3 for name in found.there) else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, SegwiseError):
        return None


def _write(
    folder: Path,
    case: Case,
    frame: Frame[Any],
    names: tuple[str, ...],
    asked: Sequence[str],
    volume: Volume,
    masks: Sequence[Array],
) -> None:
    prepared = frame.prepare(volume)
    labels = labelled(masks, [names.index(name) + 1 for name in asked], volume.grid, prepared.grid)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "image.npy", prepared.array)
    np.save(folder / "labels.npy", labels)
    there = []
    for i, name in enumerate(names):
        places = np.argwhere(labels == i + 1).astype(np.int32)
        if len(places):
            there.append(name)
            rng = np.random.default_rng([i, len(places)])
            chosen = places[np.sort(rng.permutation(len(places))[:PLACES])]
            np.save(folder / f"places_{i}.npy", chosen)
    said = {
        "id": case.id,
        "subject": case.subject,
        "shape": list(prepared.grid.shape),
        "affine": prepared.grid.affine.tolist(),
        "channels": [[channel.modality, channel.window_hu] for channel in prepared.channels],
        "names": list(names),
        "there": there,
        "known": list(asked),
    }
    part = folder / ".case.json.tmp"  # last: a folder without it is not whole
    part.write_text(json.dumps(said), encoding="utf-8")
    part.replace(folder / "case.json")


@functools.lru_cache(maxsize=64)
def mapped(case: Prepared) -> tuple[Volume, Array]:
    """The volume and the labels of a case, mapped into memory once a process."""
    return case.volume, case.labels


def opened(folder: Path) -> Prepared:
    """What was prepared in a folder."""
    said = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    d, h, w = said["shape"]
    channels = tuple(Channel(kind, None if window is None else tuple(window)) for kind, window in said["channels"])
    grid = Grid((d, h, w), np.array(said["affine"]))
    lists = {key: tuple(said[key]) for key in ("names", "there", "known")}
    return Prepared(folder, said["id"], said["subject"], grid, channels, **lists)


def labelled(masks: Sequence[Array], values: Sequence[int], src: Grid, dst: Grid) -> Array:
    """uint8 [*dst.shape]: masks on another grid, each voxel the mask that fills most of it, if that is half or more.

    Args:
        masks: bool [*src.shape] each; of equal shares the last one counts.
        values: what each becomes.
    """
    out = np.zeros(dst.shape, dtype=np.uint8)
    best = np.full(dst.shape, np.float32(0.5), dtype=np.float32)
    for mask, value in zip(masks, values, strict=True):
        share = regrid(mask.astype(np.float32), src, dst, order=1, outside=0.0)
        better = share >= best
        out[better] = value
        best[better] = share[better]
    return out


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:48]
