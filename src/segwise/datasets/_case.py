"""Makes a `Case` of files: names go through the vocabulary, voxels are read when asked for, grids are compared.

A label file's grid must agree with its image's to `TOLERANCE_MM` at every corner; then the image's grid is used.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segwise import anatomy, io
from segwise.case import Case, Structure
from segwise.datasets._files import relative
from segwise.errors import DatasetError, FileError, GridError
from segwise.geometry import Array, Channel, Grid, Volume, regrid

TOLERANCE_MM = 1e-2
LABELS = "resample the labels to the image, or mend the header that is wrong"
CHANNELS = 'resample one to the other, or say "registered": true in a case.json if they share one world space'
_MR = {"mr", "mri", "flair", "adc", "dwi", "swi", "pd", "pdw", "bold", "asl", "inphase", "outphase"}
_MR |= {"t1", "t1w", "t1c", "t1ce", "t1gd", "t1n", "t2", "t2w", "t2f", "t2s", "t2star", "t2starw"}
_CORE = ("necrosis", "necrosis and non-enhancing tumor", "non-enhancing tumor", "enhancing tumor")
_GLIOMA = (*_CORE, "edema", "tumor core")


@dataclass(frozen=True)
class Label:
    """A label that a data set has.

    Attributes:
        raw: what the data set calls it.
        path: the file that holds it.
        values: its values there; () for every voxel that is not 0.
        words: what to look up in the vocabulary where that is not `raw` ("liver tumor" for "cancer" in a liver set).
    """

    raw: str
    path: Path
    values: tuple[int, ...] = ()
    words: str = ""


Place = tuple[Path, tuple[int, ...]]  # a file and the values in it
Places = Mapping[str, tuple[Place, ...]]  # name of a structure -> what makes it up


@dataclass(frozen=True)
class Files:
    """Where a case's voxels are; its methods are a case's `load` and `load_masks`.

    Attributes:
        images: one file a channel, or one 4D file with all channels.
        channels: what each channel is; more than one for one file: it is read as 4D.
        places: by name of the structure.
        expected: the only label values there may be, or () for any.
        registered: the images share world space but maybe no grid: the further ones are brought onto the first's.
    """

    images: tuple[Path, ...]
    channels: tuple[str, ...]
    places: Places
    expected: tuple[int, ...] = ()
    registered: bool = False

    def volume(self) -> Volume:
        """Reads the image. A channel of which neither layout nor file say what it is gets a guess from its values.

        Raises:
            GridError: the channels lie on different grids, or registered ones nowhere together.
            FileError: a file is 4D where the layout has one volume: which one is meant cannot be known.
        """
        together = len(self.images) == 1 and len(self.channels) > 1
        scans = [self._scan(path, channels=together) for path in self.images]
        grid = scans[0].grid
        own = [scan.array for scan in scans]
        for i, (path, scan) in enumerate(zip(self.images, scans, strict=True)):
            if self.registered:
                own[i] = _brought(scan, grid, path)
            else:
                require_same(grid, scan.grid, self.images[0], path, remedy=CHANNELS)
        arrays = own[0] if len(own) == 1 else np.concatenate(own)
        said = [channel for scan in scans for channel in scan.channels]
        guess = "" if all(self._modalities(len(said))) else io.guess_modality(arrays)
        names = [name or c.modality or guess for c, name in zip(said, self._modalities(len(said)), strict=True)]
        return Volume.of(arrays, grid, [Channel(name, c.window_hu) for c, name in zip(said, names, strict=True)])

    def _scan(self, path: Path, *, channels: bool) -> Volume:
        scan = io.read(path, channels=channels)
        if not channels and any(finding.code == "4d" for finding in scan.findings):
            raise FileError(
                f"{path.name}: holds several volumes (4D), expected one a case; split it, or use nnU-Net's layout"
            )
        return scan.volume

    def masks(self, structures: tuple[Structure, ...]) -> list[Array]:
        """Reads references, bool [D, H, W] each, on the image's grid.

        Raises:
            GridError: a label file lies on another grid than the image.
            DatasetError: a label file holds a value that its edition does not have.
        """
        grid = io.peek(self.images[0]).grid
        out = [np.zeros(grid.shape, dtype=bool) for _ in structures]
        wanted: dict[Path, list[tuple[int, tuple[int, ...]]]] = {}
        for i, structure in enumerate(structures):
            for path, values in self._where(structure):
                wanted.setdefault(path, []).append((i, values))
        for path, uses in wanted.items():
            labels = io.read_labels(path, on=grid)
            require_same(grid, labels.grid, self.images[0], path)
            self._check(labels.array, path)
            for i, values in uses:
                out[i] |= _mask(labels, values)
        return out

    def _where(self, structure: Structure) -> tuple[Place, ...]:
        """The places of a structure; of one that is not listed (what must be ignored) its values in every label map."""
        if structure.name in self.places:
            return self.places[structure.name]
        return tuple((path, structure.values) for path in {p for found in self.places.values() for p, _ in found})

    def _check(self, array: Array, path: Path) -> None:
        odd = sorted(set(np.unique(array).tolist()) - {0, *self.expected}) if self.expected else []
        if odd:
            raise DatasetError(
                f"{path.name}: holds the label {odd[0]}, expected only {', '.join(map(str, self.expected))}; "
                f"it may be of another edition"
            )

    def _modalities(self, n: int) -> tuple[str, ...]:
        if len(self.channels) == n:
            return self.channels
        return (self.channels[0] if len(self.channels) == 1 else "",) * n


def _brought(scan: Volume, grid: Grid, path: Path) -> Array:
    """A registered channel on the case's grid: linear, its lowest value where it does not reach."""
    if grid.close(scan.grid, tolerance_mm=TOLERANCE_MM):
        return scan.array
    there = regrid(np.ones(scan.grid.shape, dtype=np.uint8), scan.grid, grid, order=0, outside=0)
    if not there.any():
        raise GridError(
            f"{path.parent.name}/{path.name}: lies nowhere in the field of the case's first image, expected scans of "
            f'one world space; "registered": true is not true of it'
        )
    lowest = float(scan.array.min())
    return np.stack([regrid(array, scan.grid, grid, order=1, outside=lowest) for array in scan.array])


def _mask(labels: io.LabelMap, values: tuple[int, ...]) -> Array:
    if not values:
        return np.asarray(labels.array != 0)
    if any(value in labels.masks for value in values):
        return np.asarray(np.logical_or.reduce([labels.mask(value) for value in values]))
    return np.asarray(labels.array == values[0]) if len(values) == 1 else np.isin(labels.array, values)


def require_same(image: Grid, other: Grid, image_path: Path, other_path: Path, *, remedy: str = LABELS) -> None:
    """Compares two grids; `remedy` is what to do where they differ.

    Raises:
        GridError: shapes differ, or a corner lies further than `TOLERANCE_MM` off.
    """
    if image.close(other, tolerance_mm=TOLERANCE_MM):
        return
    names = f"{image_path.parent.name}/{image_path.name} and {other_path.parent.name}/{other_path.name}"
    if image.shape != other.shape:
        raise GridError(f"{names} have {image.shape} and {other.shape} voxels (D, H, W), expected one grid; {remedy}")
    corners = [[n * (k >> i & 1) for i, n in enumerate(np.array(image.shape) - 1)] for k in range(8)]
    apart = float(np.abs(image.mm(corners) - other.mm(corners)).max())
    raise GridError(f"{names} lie up to {apart:.4g} mm apart at a corner, expected at most {TOLERANCE_MM} mm; {remedy}")


def make(
    *,
    root: Path,
    layout: str,
    id: str,
    subject: str,
    images: Sequence[Path],
    labels: Iterable[Label],
    modality: str = "",
    channels: Sequence[str] = (),
    dataset: str = "",
    quality: str = "unknown",
    licence: str = "",
    notes: Sequence[str] = (),
    ignore: int | None = None,
    expected: Sequence[int] = (),
    facts: Mapping[str, str] | None = None,
    registered: bool = False,
) -> Case:
    """A case whose voxels are in files that `io` reads.

    Args:
        root: the data set's folder, for relative names.
        layout: the member that reads it.
        id: unique in the data set.
        subject: the person.
        images: one file a channel, or one with all.
        labels: what has a reference.
        modality: "CT", "MR" or "".
        channels: the modality of each channel where it is finer than `modality`.
        dataset: name of the set; default: the folder's.
        quality: how the reference was made.
        licence: of the data.
        notes: for reports.
        ignore: label value that must not be scored.
        expected: the only label values there may be; others are an error on reading.
        facts: as `Case.facts`.
        registered: as `Files.registered`.
    """
    structures, derived, places = described(list(labels))
    files = Files(tuple(images), tuple(channels) or (modality,), places, tuple(expected), registered)
    return Case(
        id=id,
        subject=subject,
        dataset=dataset or name_of(root),
        layout=layout,
        modality=modality,
        images=tuple(relative(path, root) for path in images),
        structures=structures,
        load=files.volume,
        load_masks=files.masks,
        quality=quality,
        licence=licence,
        notes=tuple(notes),
        ignore=ignore,
        derived=derived,
        facts=dict(facts or {}),
    )


def broken(*, root: Path, layout: str, id: str, reason: str) -> Case:
    """A case that cannot be listed: it has no targets, and reading it says why."""
    unread = Unread(reason)
    return Case(
        id=id,
        subject=id,
        dataset=name_of(root),
        layout=layout,
        modality="",
        images=(),
        structures=(),
        load=unread.volume,
        load_masks=unread.masks,
        notes=(reason,),
        broken=reason,
    )


@dataclass(frozen=True)
class Unread:
    """Stands for the files of a case that cannot be listed."""

    reason: str

    def volume(self) -> Volume:
        """Raises the reason as a DatasetError."""
        raise DatasetError(self.reason)

    def masks(self, structures: tuple[Structure, ...]) -> list[Array]:
        """Raises the reason as a DatasetError."""
        raise DatasetError(self.reason)


def name_of(root: Path) -> str:
    """The folder's own name."""
    return root.name or root.resolve().name


def described(labels: Sequence[Label]) -> tuple[tuple[Structure, ...], tuple[Structure, ...], Places]:
    """Structures by common name, those that can be derived, and where each one's voxels are.

    A name the vocabulary does not know is kept. Where two labels have one common name, both keep their own names: which
    of them is meant cannot be known.
    """
    words = [anatomy.resolve(label.words or label.raw) for label in labels]
    times: dict[str, int] = {}
    for found in words:
        times[found.name] = times.get(found.name, 0) + 1
    structures: list[Structure] = []
    places: dict[str, tuple[Place, ...]] = {}
    for label, found in zip(labels, words, strict=True):
        clear = found.known and times[found.name] == 1
        name = _free(found.name if clear else label.raw, places, label)
        structures.append(Structure(name, label.raw, label.values, clear))
        places[name] = ((label.path, label.values),)
    composites, unions = _composites(structures), _unions(structures)
    for made, parts in (*composites, *unions):
        places[made.name] = tuple(place for part in parts for place in places[part.name])
    return (*structures, *(made for made, _ in composites)), tuple(made for made, _ in unions), places


def _free(name: str, taken: Mapping[str, object], label: Label) -> str:
    if name not in taken:
        return name
    return f"{name} ({'+'.join(map(str, label.values)) or label.path.name})"


Made = list[tuple[Structure, list[Structure]]]


def _composites(structures: Sequence[Structure]) -> Made:
    """ "whole tumor" and "tumor core" of a glioma's parts, where the data set does not list them itself."""
    there = {s.name: s for s in structures}
    parts = [there[name] for name in _GLIOMA if name in there]
    core = [there[name] for name in _CORE if name in there]
    if "enhancing tumor" not in there and not ("edema" in there and len(parts) > 1):
        return []
    made = []
    if "whole tumor" not in there and len(parts) > 1:
        made.append(_together("whole tumor", parts))
    if "tumor core" not in there and len(core) > 1 and "enhancing tumor" in there:
        made.append(_together("tumor core", core))
    return made


def _together(name: str, parts: Sequence[Structure]) -> tuple[Structure, list[Structure]]:
    parts = sorted(parts, key=lambda part: part.values)
    values = tuple(sorted({value for part in parts for value in part.values}))
    return Structure(name, "+".join(part.raw for part in parts), values), list(parts)


def _unions(structures: Sequence[Structure]) -> Made:
    """The unions of left and right for every structure of which both sides are there and the union is not."""
    there = {s.name: s for s in structures if s.known}
    made = []
    for left in there.values():
        name = anatomy.without_side(left.name)
        sides = anatomy.union_of(name)
        if sides and left.name == sides[0] and sides[1] in there and name not in there:
            union, parts = _together(name, [left, there[sides[1]]])
            made.append((dataclasses.replace(union, sides=sides), parts))
    return made


def values_in(path: Path, image: Path) -> list[Label]:
    """The labels that a file holds, by the names in the file or by number; reads it, as nothing else can tell.

    Args:
        path: the label file.
        image: what it belongs to: contours (RTSTRUCT) are drawn on its grid.
    """
    labels = io.read_labels(path, on=io.peek(image).grid if path.suffix.lower() == ".dcm" else None)
    values = sorted({int(v) for v in np.unique(labels.array)} | set(labels.masks)) if not labels.names else labels.names
    return [Label(labels.names.get(v, f"label {v}"), path, (v,)) for v in values if v != 0]


def modality_of(words: str) -> str:
    """ "CT" or "MR" if that is what words say of an image ("MRI", "T1w", "ct"), else ""."""
    tokens = re.findall(r"[a-z0-9]+", words.lower())
    if any(token in ("ct", "cbct", "cect", "ncct", "cta") for token in tokens):
        return "CT"
    return "MR" if any(token in _MR for token in tokens) else ""


def channel_of(words: str) -> str:
    """The modality of a channel by its name: "T1w" and "FLAIR" stay, "MRI" is MR, what names no modality is ""."""
    coarse = modality_of(words)
    return coarse if words.upper() in ("MRI", "MR", "CT") else words if coarse else ""


def label_names(content: object) -> dict[str, tuple[int, ...]]:
    """{name: values} of a table of labels, without the background.

    Data sets write {"1": "liver"}, {"liver": 1}, {"liver": "1"} or, for regions, {"whole tumor": [1, 2]}. Values of one
    name are one label.
    """
    found: dict[str, tuple[int, ...]] = {}
    if not isinstance(content, Mapping):
        return found
    for key, value in content.items():
        if isinstance(value, str) and str(key).strip().isdecimal():
            found[value] = (*found.get(value, ()), int(key))
        elif isinstance(value, int) and not isinstance(value, bool):
            found.setdefault(str(key), (value,))
        elif isinstance(value, str) and value.strip().isdecimal():
            found.setdefault(str(key), (int(value),))
        elif isinstance(value, list) and value and all(isinstance(v, int) for v in value):
            found.setdefault(str(key), tuple(value))
    return {name: values for name, values in found.items() if values != (0,)}
