"""What a command line says about targets, as prompts: boxes, points, strokes and names in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from segwise import anatomy, assemble, io
from segwise.errors import PromptError
from segwise.geometry import Array, Channel, Grid, Volume
from segwise.prompt import Box, Mark, Points, Prompt, Stroke, Text


def numbers(text: str, n: int, what: str, form: str) -> tuple[float, ...]:
    """`n` finite numbers separated by commas.

    Raises:
        PromptError: anything else.
    """
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) != n or not all(map(math.isfinite, values)):
        raise PromptError(f'{what} "{text}": expected {n} numbers {form}')
    return values


def prompts_of(
    info: assemble.ModelInfo,
    grid: Grid,
    *,
    boxes: Sequence[str],
    points: Sequence[str],
    texts: Sequence[str],
    mm: bool,
) -> dict[str, Prompt]:
    """Prompts by target, as `api.segment` describes them.

    Raises:
        PromptError: a malformed mark, one that the model does not take, one outside the scan, or nothing said.
    """
    marks = marks_of(grid, boxes=boxes, points=points, mm=mm)
    if not marks and not texts and info.labels and info.card.takes == ("text",):
        texts = info.labels
    spoken = [*marks, *([Text(texts[0])] if texts else [])]
    refused = sorted({mark.kind for mark in spoken} - set(info.card.takes))
    if not spoken or refused:
        came = f"{info.spec} does not take {' and '.join(refused)}" if refused else "nothing says what to segment"
        options = {"box": "--box", "points": "--point", "text": "--text"}
        wanted = " or ".join(options[kind] for kind in info.card.takes if kind in options)
        raise PromptError(f"{came}; expected {wanted}")
    must_be_inside(Prompt(tuple(marks)), grid)
    if not texts:
        return {"target": Prompt(tuple(marks))}
    names = dict.fromkeys(anatomy.resolve(text).name for text in texts)
    return {name: Prompt((*marks, Text(name))) for name in names}


def marks_of(
    grid: Grid, *, boxes: Sequence[str] = (), points: Sequence[str] = (), strokes: Sequence[str] = (), mm: bool = False
) -> list[Mark]:
    """Boxes, then all points as one mark, then strokes.

    Raises:
        PromptError: a malformed one.
    """
    marks: list[Mark] = [_box(text, grid, mm=mm) for text in boxes]
    if points:
        places = [_point(text, mm=mm) for text in points]
        xyz = np.array([p for p, _ in places])
        marks.append(Points(xyz if mm else grid.mm(xyz), np.array([sign for _, sign in places])))
    return [*marks, *(_stroke(text, grid, mm=mm) for text in strokes)]


def must_be_inside(prompt: Prompt, grid: Grid) -> None:
    """Nothing where every mark lies on the scan.

    Raises:
        PromptError: a box or point lies outside.
    """
    placed = prompt.on(grid)
    n_boxes = sum(isinstance(mark, Box) for mark in prompt.marks)
    n_points = sum(len(mark.xyz_mm) for mark in prompt.marks if isinstance(mark, Points | Stroke))
    if len(placed.boxes) < n_boxes or len(placed.points) < n_points:
        size = "x".join(map(str, grid.shape))
        low, high = (grid.mm(corner)[0].round(1).tolist() for corner in ((0, 0, 0), [n - 1 for n in grid.shape]))
        raise PromptError(
            f"a box or point lies outside the scan, which has {size} voxels (d, h, w) "
            f"from {low} to {high} mm RAS; give voxels as d,h,w, or mm with --mm"
        )


def _box(text: str, grid: Grid, *, mm: bool) -> Box:
    form = "x0,y0,z0,x1,y1,z1 in mm RAS" if mm else "d0,h0,w0,d1,h1,w1 in voxels, half-open"
    values = np.array(numbers(text, 6, "--box", form)).reshape(2, 3)
    low, high = values.min(axis=0), values.max(axis=0)
    if (high <= low).any():
        raise PromptError(f'--box "{text}" is empty on an axis; expected {form}')
    if mm:
        return Box(low, np.diag(high - low))
    return Box.of(grid, low, high)


def _point(text: str, *, mm: bool) -> tuple[Array, bool]:
    form = "x,y,z and + or - in mm RAS" if mm else "d,h,w and + or - in voxels"
    place, _, sign = text.rpartition(",")
    if sign.strip() not in ("+", "-"):
        place, sign = text, "+"
    return np.array(numbers(place, 3, "--point", form)), sign.strip() == "+"


def _stroke(text: str, grid: Grid, *, mm: bool) -> Stroke:
    form = '"place place … +" or "… -", each place three numbers separated by commas'
    *words, sign = text.split()
    if sign not in ("+", "-"):
        words, sign = [*words, sign], "+"
    places = np.array([numbers(word, 3, "--stroke", form) for word in words])
    if len(places) < 2:
        raise PromptError(f'--stroke "{text}" has {len(places)} places, expected at least 2: {form}')
    return Stroke(places if mm else grid.mm(places), positive=sign == "+")


def named(volume: Volume, modality: str) -> Volume:
    """The volume with its modality as the user names it, "" for as the file says.

    Raises:
        PromptError: neither CT nor MR.
    """
    if not modality:
        return volume
    if modality.upper() not in ("CT", "MR"):
        raise PromptError(f'--modality "{modality}": expected CT or MR')
    channels = [Channel(modality.upper(), channel.window_hu) for channel in volume.channels]
    return Volume.of(volume.array, volume.grid, channels)


def doubts(
    info: assemble.ModelInfo, volume: Volume, voxels: Mapping[str, int], presence: Mapping[str, float | None]
) -> list[str]:
    """What a user should know of an answer: a model out of its modality, and structures that came out empty."""
    found = []
    modality = volume.channels[0].modality or io.guess_modality(volume.array[0])
    kind = "CT" if modality == "CT" else "MR" if modality else ""
    if kind and kind not in info.card.modalities:
        found.append(f"{info.spec} is made for {' and '.join(info.card.modalities)}; this looks like {kind}")
    absent = {name: sure for name, sure in presence.items() if sure is not None and sure < 0.5}
    if absent:
        shown = ", ".join(f"{name} (presence {sure:.2f})" for name, sure in list(absent.items())[:5])
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        found.append(f"absent from this scan, says the model, so left empty: {shown}{more}")
    empty = [name for name, n in voxels.items() if not n and name not in absent]
    if empty:
        shown = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        found.append(f"nothing was found of {len(empty)} of {len(voxels)} targets: {shown}")
    return found
