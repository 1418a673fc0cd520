"""Series of a place: images grouped by series, orientation and size; repeated positions become several volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from segwise.errors import FileError
from segwise.geometry import Array
from segwise.io.dicom_files import Found, Item, modality, scan
from segwise.io.dicom_frames import DISCRIMINATORS, Frame, frames_of, kind_of, numbers, refusal
from segwise.io.dicom_geometry import SAME_PLACE_MM, arranged, heights
from segwise.io.dicom_pixels import fingerprint, stacked
from segwise.io.limits import Limits, guarded
from segwise.io.scan import Finding, Header, Opened

SAME_DIRECTION = 1e-3  # cosines of one series differ by rounding only
SCOUT_SLICES = 3  # a localizer has at most this many slices of one orientation


@dataclass(frozen=True, eq=False)
class Series:
    """Images that belong together.

    Attributes:
        number: from 1, as listed; what `series=` picks by.
        modality: as the files say, "" if unknown.
        frames: all slices, in no order.
        findings: what was noticed when grouping.
        refusal: why it is no scan, or None.
        window_hu: display window of a CT, or None.
    """

    number: int
    modality: str
    frames: tuple[Frame, ...]
    findings: tuple[Finding, ...]
    refusal: str | None
    window_hu: tuple[float, float] | None

    @property
    def label(self) -> str:
        """Number, modality and size: all that is shown of a series."""
        first = self.frames[0]
        size = f"{len(self.frames)} x {first.rows} x {first.columns}"
        return f"series {self.number}: {self.modality or 'unknown modality'}, {size}"


@dataclass(frozen=True, eq=False)
class Place:
    """A file, folder or zip with DICOM in it.

    Attributes:
        name: of the file or folder.
        series: the images.
        objects: (kind, file, header) of what is no image: "seg", "rtstruct", "RTPLAN", ...
        findings: notes on files that are skipped.
        others: files that are no DICOM.
    """

    name: str
    series: tuple[Series, ...]
    objects: tuple[tuple[str, Item, Any], ...]
    findings: tuple[Finding, ...]
    others: tuple[Item, ...]


def survey(path: Path, limits: Limits) -> Place:
    """All series of a place, from headers.

    Raises:
        FileError: too many files, a damaged archive.
    """
    found = scan(path, limits)
    images: list[tuple[Item, Any]] = []
    objects: list[tuple[str, Item, Any]] = []
    for item, dataset in found.objects:
        with guarded(item.name, "DICOM"):
            kind = kind_of(dataset)
        if kind == "image":
            images.append((item, dataset))
        else:
            objects.append((kind, item, dataset))
    name = path.name
    with guarded(name, "DICOM"):
        series = _grouped(images)
    return Place(name, tuple(series), tuple(objects), tuple(_notes(found, objects)), tuple(found.others))


def pick(place: Place, number: int | None) -> Series:
    """The series of a number, the only one, or the one that clearly is the volume.

    It clearly is where every other series has at most three slices (localizers) and it has more.

    Raises:
        FileError: there is no series, not that one, or a choice to be made.
    """
    if not place.series:
        kinds = ", ".join(sorted({kind.upper() for kind, *_ in place.objects}))
        held = f"holds {kinds}, no image" if kinds else "holds no DICOM image"
        if place.others:
            held += f" but {len(place.others)} other file(s): name an image file itself, unpacked"
        what = "; give it as labels instead" if {k for k, *_ in place.objects} & {"seg", "rtstruct"} else ""
        raise FileError(f"{place.name}: {held}; expected CT or MR slices{what}")
    listing = "; ".join(s.label for s in place.series)
    if number is not None:
        chosen = next((s for s in place.series if s.number == number), None)
        if chosen is None:
            raise FileError(f"{place.name}: there is no series {number}; it holds {listing}")
        return chosen
    clear = obvious(place)
    if clear is None:
        raise FileError(f"{place.name}: holds {len(place.series)} series; choose one: --series N (series=N): {listing}")
    return clear


def obvious(place: Place) -> Series | None:
    """The only series, or the only one with more slices than a localizer has; None where a person must choose."""
    if len(place.series) == 1:
        return place.series[0]
    large = [s for s in place.series if len(s.frames) > SCOUT_SLICES and s.refusal is None]
    return large[0] if len(large) == 1 else None


def open_series(
    place: Place, series: Series, limits: Limits, spacing_mm: tuple[float, float, float] | None = None
) -> Opened:
    """The volumes of a series with one grid.

    Raises:
        FileError: colour, missing slices, irregular spacing, positions that repeat without a reason, or no geometry.
    """
    several = len(place.series) > 1
    name = f"{place.name}, series {series.number}" if several else place.name
    if series.refusal:
        raise FileError(f"{name}: {series.refusal}")
    with guarded(name, "DICOM"):
        volumes, findings = split(name, series.frames)
        ordered = [arranged(name, frames, spacing_mm) for frames in volumes]
    _, grid, found = ordered[0]
    same = [o for o in ordered if o[1].close(grid)]
    if len(same) < len(ordered):
        text = f"{len(ordered) - len(same)} of {len(ordered)} volumes lie elsewhere"
        findings.append(Finding("warning", "other-places", text, "only those on the first one's grid are offered"))

    def load(volume: int) -> Array:
        return stacked(name, same[volume][0], limits)

    limits.declared(name, grid.shape, 4)
    return Opened(
        Header("dicom", grid), len(same), [*series.findings, *findings, *found], load, series.modality, series.window_hu
    )


def split(name: str, frames: Sequence[Frame]) -> tuple[list[list[Frame]], list[Finding]]:
    """The volumes among slices of one orientation: one where no position repeats.

    Repeated positions are, in this order: copies of one file (dropped), volumes told apart by a header field (echo,
    b-value, time point, ...), or volumes in the order of their numbers.

    Raises:
        FileError: some positions repeat without anything that tells the slices apart.
    """
    if any(f.position is None or f.orientation is None for f in frames) or len(frames) == 1:
        return [list(frames)], []
    places = _clusters(frames)
    findings: list[Finding] = []
    if max(places) + 1 == len(frames):
        return [list(frames)], findings
    kept, n_copies = _without_copies(frames, places)
    if n_copies:
        text = f"{n_copies} slices are there twice (the same pixels at the same position)"
        findings.append(Finding("warning", "copies", text, "each is read once"))
    places = _clusters(kept)
    if max(places) + 1 == len(kept):
        return [kept], findings
    for n in (1, 2):
        for which in combinations(range(len(DISCRIMINATORS)), n):
            groups = _by_marks(kept, places, which)
            if groups is not None:
                by = " and ".join(DISCRIMINATORS[i] for i in which)
                text = f"holds {len(groups)} volumes of the same place, told apart by {by}"
                return groups, [*findings, Finding("note", "several-volumes", text)]
    return _by_order(name, kept, places, findings)


def _by_order(
    name: str, frames: Sequence[Frame], places: list[int], findings: list[Finding]
) -> tuple[list[list[Frame]], list[Finding]]:
    counts = np.bincount(places)
    if len(set(counts.tolist())) > 1:
        along = heights(frames)
        twice = sorted({round(float(along[i]), 2) for i, p in enumerate(places) if counts[p] > counts.min()})
        where = ", ".join(f"{v:.2f}" for v in twice[:5]) + (" ..." if len(twice) > 5 else "")
        raise FileError(
            f"{name}: {len(twice)} positions hold more than one slice (at {where} mm along the slice normal) and no "
            "header field tells them apart; remove the surplus files"
        )
    order = sorted(range(len(frames)), key=lambda i: (frames[i].number, frames[i].item.name, frames[i].index))
    groups: list[list[Frame]] = [[] for _ in range(int(counts[0]))]
    seen = dict.fromkeys(places, 0)
    for i in order:
        groups[seen[places[i]]].append(frames[i])
        seen[places[i]] += 1
    text = f"every position holds {len(groups)} slices and no header field tells them apart"
    return groups, [*findings, Finding("warning", "several-volumes", text, "volumes follow the slices' numbers")]


def _clusters(frames: Sequence[Frame]) -> list[int]:
    """For each frame the number of its position; positions within `SAME_PLACE_MM` are one."""
    along = heights(frames)
    order = np.argsort(along, kind="stable")
    number, out = 0, [0] * len(frames)
    for before, i in zip([None, *order[:-1]], order, strict=True):
        if before is not None and along[i] - along[before] > SAME_PLACE_MM:
            number += 1
        out[int(i)] = number
    return out


def _without_copies(frames: Sequence[Frame], places: list[int]) -> tuple[list[Frame], int]:
    counts = np.bincount(places)
    kept: list[Frame] = []
    seen: set[tuple[int, str, tuple[Any, ...]]] = set()
    for frame, place in zip(frames, places, strict=True):
        if counts[place] > 1:
            same_file = frame.index == 0
            key = (place, fingerprint(frame) if same_file else f"frame {frame.index} {id(frame.item)}", frame.marks)
            if key in seen:
                continue
            seen.add(key)
        kept.append(frame)
    return kept, len(frames) - len(kept)


def _by_marks(frames: Sequence[Frame], places: list[int], which: tuple[int, ...]) -> list[list[Frame]] | None:
    """Volumes by the values of some discriminators, if each holds every position once; else None."""
    groups: dict[Any, list[int]] = {}
    for i, frame in enumerate(frames):
        groups.setdefault(tuple(frame.marks[k] for k in which), []).append(i)
    n_places = max(places) + 1
    if len(groups) < 2 or any(len(g) != n_places or len({places[i] for i in g}) != n_places for g in groups.values()):
        return None
    keys = sorted(groups, key=lambda key: tuple((v is not None, str(type(v)), v if v is not None else 0) for v in key))
    return [[frames[i] for i in groups[key]] for key in keys]


def _grouped(images: list[tuple[Item, Any]]) -> list[Series]:
    groups: list[tuple[Any, Frame, list[Frame], Any]] = []
    for item, dataset in images:
        why = refusal(dataset)
        uid = str(dataset.get("SeriesInstanceUID") or "")
        for frame in frames_of(item, dataset):
            key = (uid, modality(dataset), why)
            home = next((g for g in groups if g[0] == key and _alike(g[1], frame)), None)
            if home is None:
                groups.append((key, frame, [frame], dataset))
            else:
                home[2].append(frame)
    groups.sort(key=lambda g: (int(_series_number(g[3])), g[2][0].item.name, -len(g[2])))
    uids = [g[0][0] for g in groups]
    return [
        Series(n, key[1], tuple(frames), tuple(_uid_findings(key[0], frames, uids)), key[2], _window(dataset, key[1]))
        for n, (key, _, frames, dataset) in enumerate(groups, 1)
    ]


def _alike(a: Frame, b: Frame) -> bool:
    if (a.rows, a.columns) != (b.rows, b.columns) or (a.orientation is None) != (b.orientation is None):
        return False
    if a.orientation is not None and np.abs(a.orientation - b.orientation).max() > SAME_DIRECTION:
        return False
    if a.spacing is None or b.spacing is None:
        return a.spacing is b.spacing
    return bool(np.allclose(a.spacing, b.spacing, rtol=1e-3))


def _uid_findings(uid: str, frames: Sequence[Frame], uids: list[str]) -> list[Finding]:
    out: list[Finding] = []
    if not uid:
        text = "the series has no SeriesInstanceUID"
        out.append(Finding("warning", "empty-uid", text, "grouped by modality, orientation and size"))
    elif uids.count(uid) > 1:
        text = f"one series holds {uids.count(uid)} orientations or sizes (a localizer, or mixed files)"
        out.append(Finding("warning", "mixed-orientations", text, "each is listed as a series of its own"))
    files = {id(f.item): f for f in frames}
    instances = [f.uid for f in files.values()]
    n_empty = instances.count("")
    n_twice = len(instances) - n_empty - len(set(instances) - {""})
    if n_empty:
        text = f"{n_empty} of {len(instances)} files have no SOPInstanceUID"
        out.append(Finding("warning", "empty-uid", text, "told apart by position"))
    if n_twice:
        twice = [f for f in files.values() if f.uid and instances.count(f.uid) > 1]
        where = ""
        if all(f.position is not None and f.orientation is not None for f in twice):
            where = (
                " at " + ", ".join(f"{v:.2f}" for v in sorted(set(heights(twice)))[:5]) + " mm along the slice normal"
            )
        text = f"{n_twice} files repeat the SOPInstanceUID of another{where}"
        out.append(Finding("warning", "duplicate-uid", text, "told apart by position and pixels"))
    return out


def _series_number(dataset: Any) -> float:
    values = numbers(dataset.get("SeriesNumber"), 1)
    return 1e9 if values is None else float(values[0])


def _window(dataset: Any, kind: str) -> tuple[float, float] | None:
    if kind != "CT":
        return None
    centre, width = (_first(dataset.get(k)) for k in ("WindowCenter", "WindowWidth"))
    return None if centre is None or width is None or width <= 0 else (centre - width / 2, centre + width / 2)


def _first(value: Any) -> float | None:
    values = numbers(value if isinstance(value, str | int | float) else (list(value)[:1] if value else None), 1)
    return None if values is None else float(values[0])


def _notes(found: Found, objects: list[tuple[str, Item, Any]]) -> list[Finding]:
    out: list[Finding] = []
    kinds = [kind.upper() for kind, *_ in objects]
    for kind in sorted(set(kinds)):
        use = "can be read as labels" if kind in ("SEG", "RTSTRUCT") else "skipped"
        out.append(Finding("note", "no-image", f"{kinds.count(kind)} {kind} object(s) among the files", use))
    if found.broken:
        text = f"{len(found.broken)} damaged DICOM file(s): {', '.join(found.broken[:5])}"
        out.append(Finding("warning", "damaged-files", text, "skipped"))
    if found.others:
        out.append(Finding("note", "other-files", f"{len(found.others)} file(s) that are no DICOM", "skipped"))
    return out
