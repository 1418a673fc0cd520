"""A case under a condition: the same person, worse scanned. A `Case` becomes another one; nothing is read before.

What damages only the image is `corrupt`'s; what moves slices moves references alike, so that a prompt and a score are
of the damaged scan. The seed decides everything, and the same seed gives the same place and pattern at all levels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from segwise.case import Case, Structure
from segwise.errors import ConditionError
from segwise.geometry import Array, Channel, Grid, Volume
from segwise.synth import corrupt
from segwise.synth.imaging import Scan

DROPPED = 3  # slices that are lost together
CT_BELOW = -200.0  # a volume without modality that goes below is a CT


@dataclass(frozen=True)
class Axis:
    """What a condition's number means.

    Attributes:
        argument: its name in a spec.
        unit: the place on the axis in words, with {} for the number.
        low, high: of the number.
        start: place of the case as it is; None where that differs from case to case.
        whole: the number is a whole one.
        inverse: the place is 100 / number: the smaller the number, the worse.
    """

    argument: str
    unit: str
    low: float
    high: float
    start: float | None = 0.0
    whole: bool = True
    inverse: bool = False

    def place(self, number: float) -> float:
        """Where on the axis a number lies: the greater, the worse."""
        return 100.0 / number if self.inverse else float(number)


_LEVEL = Axis("level", "level {}", 1, 5)
AXES: dict[str, Axis | None] = {  # condition -> its axis, None where it takes the name of a target
    **dict.fromkeys((name for name in corrupt.CORRUPTIONS), _LEVEL),
    "contrast": _LEVEL,
    "spacing": Axis("mm", "{} mm between slices", 0.1, 50, start=None, whole=False),
    "shuffle": Axis("block", "{} % of neighbouring slices torn apart", 1, 1000, inverse=True),
    "drop": Axis("percent", "{} % of slices lost", 1, 90),
    "without": None,
}
_CUTTING = ("cut-view", "spacing", "shuffle", "drop")  # these change where voxels are


@dataclass(frozen=True)
class Step:
    """One thing done to a case.

    Attributes:
        name: of `AXES`.
        value: the number of its axis, or the name of a target.
        seed: of every draw.
    """

    name: str
    value: float | str
    seed: int


def conditioned(case: Case, steps: Sequence[Step]) -> Case:
    """The case with all steps done to it, in order; id, subject and names stay."""
    for step in steps:
        case = _under(case, step)
    return case


def _under(case: Case, step: Step) -> Case:
    def load() -> Volume:
        return _image(case, step)

    def load_masks(structures: tuple[Structure, ...]) -> list[Array]:
        masks = case.load_masks(structures)
        if step.name in ("missing", "without"):
            gone = _gone(case, step)
            return [np.zeros_like(m) if s.name in gone else m for s, m in zip(structures, masks, strict=True)]
        if step.name not in _CUTTING or not masks:
            return masks
        grid = case.volume().grid
        return [_mask(mask, grid, step) for mask in masks]

    return dataclasses.replace(case, load=load, load_masks=load_masks)


def _image(case: Case, step: Step) -> Volume:
    volume = case.volume()
    if step.name in ("missing", "without"):
        return _channelwise(case, volume, lambda scan: _erased(case, scan, step))
    if step.name == "contrast":
        return _channelwise(case, volume, lambda scan: _recoloured(scan, _number(step)))
    if step.name in corrupt.CORRUPTIONS:
        return _channelwise(case, volume, lambda scan: _corrupted(scan, step))
    grid, move = _moved(volume.grid, step)
    array = np.stack([move(channel.astype(np.float32)) for channel in volume.array])
    if np.issubdtype(volume.array.dtype, np.integer):
        array = np.rint(array)
    return Volume.of(array.astype(volume.array.dtype), grid, volume.channels)


def _mask(mask: Array, grid: Grid, step: Step) -> Array:
    """bool: a reference where the condition leaves it."""
    if step.name == "cut-view":
        scan = Scan(Volume.of(mask.astype(np.int16), grid, (Channel("MR"),)), mask.astype(np.uint8), {1: "target"})
        return _corrupted(scan, step).labels > 0
    _, move = _moved(grid, step)
    return move(mask.astype(np.float32)) >= 0.5


def _channelwise(case: Case, volume: Volume, change: Callable[[Scan], Scan]) -> Volume:
    """Every channel as a scan of its own, changed alike."""
    kind = case.modality or ("CT" if float(volume.array.min()) < CT_BELOW else "MR")
    empty = np.zeros(volume.grid.shape, dtype=np.uint8)
    found = [change(Scan(Volume.of(one, volume.grid, (Channel(kind),)), empty, {})).volume for one in volume.array]
    return Volume.of(np.concatenate([one.array for one in found]), found[0].grid, volume.channels)


def _corrupted(scan: Scan, step: Step) -> Scan:
    return corrupt.corrupted(scan, step.name, level=int(_number(step)), seed=step.seed)


def _erased(case: Case, scan: Scan, step: Step) -> Scan:
    labels, names = _labels(case)
    whole = Scan(scan.volume, labels, names)
    if step.name == "missing":
        return _corrupted(whole, step)
    return corrupt.without(whole, str(step.value), step.seed)


def _gone(case: Case, step: Step) -> set[str]:
    """Names of the structures that are not there any more."""
    if step.name == "without":
        return {str(step.value)}
    labels, names = _labels(case)
    scan = Scan(Volume.of(labels, Grid(labels.shape, np.eye(4)), (Channel("MR"),)), labels, names)
    return set(names.values()) - set(_corrupted(scan, step).names.values())


def _labels(case: Case) -> tuple[Array, dict[int, str]]:
    """int16 [D, H, W] and its names: all structures of a case, later ones on top."""
    names = {i: structure.name for i, structure in enumerate(case.structures, start=1)}
    labels: Array | None = None
    for i, structure in enumerate(case.structures, start=1):
        (mask,) = case.load_masks((structure,))
        labels = np.zeros(mask.shape, dtype=np.int16) if labels is None else labels
        labels[mask] = i
    if labels is None:
        raise ConditionError(f"case {case.id} has no structure that could be missing")
    return labels, names


def _recoloured(scan: Scan, level: float) -> Scan:
    """Contrast as another kind of scan has it, mixed in by a fifth a level: on CT fat becomes bright and bone dark, on
    MR bright becomes dark. A stand-in for another modality, not its simulation: borders stay where they are.
    """
    image = scan.volume.array[0].astype(np.float64)
    if scan.volume.channels[0].modality == "CT":
        other = np.interp(image, (-1024, -500, -100, 0, 60, 150, 400, 3071), (-1024, -900, 250, -40, 40, 0, -200, -300))
    else:
        low, high = np.percentile(image, (5, 99))
        other = np.where(image > low, low + high - np.clip(image, low, high), image)
    mixed = image + level / 5 * (other - image)
    if np.issubdtype(scan.volume.array.dtype, np.integer):
        mixed = np.rint(mixed)
    volume = Volume.of(mixed.astype(scan.volume.array.dtype), scan.volume.grid, scan.volume.channels)
    return Scan(volume, scan.labels, scan.names)


def _moved(grid: Grid, step: Step) -> tuple[Grid, Callable[[Array], Array]]:
    """The grid after slices were averaged, reordered or lost, and what does the same to float32 [D, H, W]."""
    axis = grid.axis_of("axial")
    n, own = grid.shape[axis], grid.spacing_mm[axis]
    if step.name == "spacing":
        weights = _averages(n, _number(step) / own, own)
        made = _stacked(grid, axis, len(weights), step_=_number(step) / own, start=(_number(step) / own - 1) / 2)
        return made, lambda array: np.moveaxis(np.tensordot(weights, array, (1, axis)), 0, axis).astype(np.float32)
    order = _shuffled(n, step) if step.name == "shuffle" else _dropped(n, step)
    return _stacked(grid, axis, len(order), step_=1.0, start=0.0), lambda array: array.take(order, axis=axis)


def _averages(n: int, ratio: float, own_mm: float) -> Array:
    """float64 [m, n]: each thick slice is the mean of what it covers of the thin ones."""
    if ratio < 1 - 1e-3:
        raise ConditionError(
            f"spacing(mm={ratio * own_mm:g}): the slices of this case lie {own_mm:g} mm apart, and finer ones cannot "
            f"be made of them; give {math.ceil(own_mm)} mm or more"
        )
    edges = np.arange(max(1, int(n / ratio + 1e-6)) + 1) * ratio
    thin = np.arange(n)
    covered = np.minimum(edges[1:, None], thin + 1) - np.maximum(edges[:-1, None], thin)
    weights = np.maximum(covered, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _shuffled(n: int, step: Step) -> Array:
    """Order of slices: blocks of so many stay whole, and change places."""
    blocks = np.array_split(np.arange(n), range(int(_number(step)), n, int(_number(step))))
    if len(blocks) < 2:
        return np.arange(n)
    rng = np.random.default_rng([step.seed, 41])
    order = rng.permutation(len(blocks))
    if (order == np.arange(len(blocks))).all():
        order = order[::-1]
    return np.concatenate([blocks[i] for i in order])


def _dropped(n: int, step: Step) -> Array:
    """The slices that are left after blocks of `DROPPED` were lost; two at least."""
    most = min(round(n * _number(step) / 100), n - 2)
    first = np.random.default_rng([step.seed, 42]).permutation(n)
    lost: list[int] = []
    for start in first:
        lost += [i for i in range(int(start), min(int(start) + DROPPED, n)) if i not in lost][: most - len(lost)]
    return np.array([i for i in range(n) if i not in set(lost)])


def _stacked(grid: Grid, axis: int, n: int, *, step_: float, start: float) -> Grid:
    """The grid with another number and distance of slices along an axis; `start` is the index of the first."""
    affine = grid.affine.copy()
    affine[:3, axis] *= step_
    affine[:3, 3] = grid.mm([start if a == axis else 0.0 for a in range(3)])[0]
    shape = [n if a == axis else size for a, size in enumerate(grid.shape)]
    return Grid((shape[0], shape[1], shape[2]), affine)


def _number(step: Step) -> float:
    return float(step.value)
