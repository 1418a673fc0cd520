"""What a net that looks at one region is shown beside the image: what the marks say about every voxel of it.

Pure functions of an image and marks in voxels of a view, without gradients. Brightness is judged by ranks (48 bins of
equal mass), place by the box, connection by paths that avoid edges.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segwise.nets.contract import Marks

BINS = 48  # of equal mass
CLICK = 1.6  # standard deviation of a click's mark, voxels
PATCH = 1.2  # of the weight of a click in the histogram
CORE = 0.5  # half axes of the core of a box, as a share of the box's
SEED = 0.3  # of the seeds of paths where nobody clicked
SWEEPS = 3  # over the grid in search of cheap paths
NAMES = (
    "image",
    "contrast",
    "box",
    "positive",
    "negative",
    "previous",
    "likeness",
    "ellipsoid",
    "cube",
    "nearness",
    "reach",
)


def seen(image: Tensor) -> dict[str, Tensor]:
    """What the image alone decides: level 0..1, bin 0..BINS - 1, cost of a step. [B, 1, D, H, W] -> all that shape."""
    flat = image.flatten(1)
    ranked = flat.sort(dim=1).values
    n = ranked.shape[1]
    low, high = ranked[:, round(0.01 * (n - 1)), None], ranked[:, round(0.99 * (n - 1)), None]
    level = ((flat - low) / (high - low).clamp(min=1e-6)).clamp(0, 1).view_as(image)
    edges = ranked[:, torch.linspace(0, n - 1, BINS + 1).round().long()[1:-1]]  # [B, BINS - 1]
    bins = torch.searchsorted(edges.contiguous(), flat, right=True).view_as(image)
    return {"level": level, "bins": bins.to(torch.uint8), "cost": _cost(level)}


def channels(features: dict[str, Tensor], marks: Marks) -> Tensor:
    """float32 [Q, len(NAMES), D, H, W], each about -1..1.

    Args:
        features: of B views, as `seen` made them.
        marks: Q queries; boxes are half-open faces in view voxels, the first at 0.
    """
    own = {key: value[marks.image] for key, value in features.items()}
    level = own["level"]
    size = level.shape[-3:]
    boxed = _boxed(marks, len(level))
    box, ellipsoid, cube = _place(marks, boxed, size)
    positive, negative = _clicks(marks, len(level), size)
    previous = torch.zeros_like(level) if marks.low_res is None else marks.low_res.float()
    inner, outer = _weights(marks, previous, box, ellipsoid, positive, negative)
    likeness = _likeness(own["bins"].long(), inner, outer)
    mean = _mean(level, inner)
    spread = _mean((level - mean) ** 2, inner).sqrt() + 0.04
    seeds, away = _seeds(boxed, box, ellipsoid, positive, negative)
    paths = _paths(own["cost"], torch.cat([seeds, away], dim=1))
    near, far = paths[:, :1], paths[:, 1:]
    nearness = (torch.log(far + 1.0) - torch.log(near + 1.0)).clamp(-3, 3) / 3
    shown = (
        2 * level - 1,
        ((level - mean) / spread).clamp(-4, 4) / 4,
        box,
        positive,
        negative,
        torch.tanh(previous / 3),
        likeness / 4,
        ellipsoid - boxed,
        cube - boxed,
        nearness,
        torch.exp(-near / 12),
    )
    return torch.cat(shown, dim=1)


def _axes(size: torch.Size) -> list[Tensor]:
    found = []
    for axis, n in enumerate(size):
        shape = [1, 1, 1, 1]
        shape[axis + 1] = n
        found.append(torch.arange(n, dtype=torch.float32).view(shape))
    return found


def _boxed(marks: Marks, n: int) -> Tensor:
    """1 for queries with a box, 0 for those without (None, or nan in a batch with others). [Q, 1, 1, 1, 1]."""
    if marks.boxes is None:
        return torch.zeros(n, 1, 1, 1, 1)
    return (~marks.boxes.isnan().any(dim=2).any(dim=1)).float().view(-1, 1, 1, 1, 1)


def _place(marks: Marks, boxed: Tensor, size: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Share of a voxel in the box; distance from its middle in half sides, Euclidean and greatest, 2 at most.

    [Q, 1, *size] each; zeros without a box.
    """
    n = len(boxed)
    if marks.boxes is None:
        zero = torch.zeros(n, 1, *size)
        return zero, zero, zero
    faces = marks.boxes.float().nan_to_num(0.0) - 0.5  # in voxel centres
    inside = torch.ones(n, *size)
    squares, greatest = torch.zeros(n, *size), torch.zeros(n, *size)
    for axis, place in enumerate(_axes(size)):
        a, b = (faces[:, side, axis].view(-1, 1, 1, 1) for side in (0, 1))
        inside = inside * (torch.minimum(place + 0.5, b) - torch.maximum(place - 0.5, a)).clamp(0, 1)
        share = (place - (a + b) / 2).abs() / ((b - a) / 2).clamp(min=0.5)
        squares = squares + share**2
        greatest = torch.maximum(greatest, share)
    far = squares.sqrt().clamp(max=2), greatest.clamp(max=2)
    return inside[:, None] * boxed, far[0][:, None] * boxed, far[1][:, None] * boxed


def _clicks(marks: Marks, n: int, size: torch.Size) -> tuple[Tensor, Tensor]:
    """Gaussian marks around the positive and the negative clicks, 1 at a click. [Q, 1, *size] each."""
    zero = torch.zeros(n, 1, *size)
    if marks.points is None or marks.signs is None or not marks.points.shape[1]:
        return zero, zero
    points, signs = marks.points.float(), marks.signs
    bumps = None
    for axis, length in enumerate(size):
        place = torch.arange(length, dtype=torch.float32)
        bump = torch.exp(-0.5 * ((place - points[..., axis, None]) / CLICK) ** 2)  # [Q, N, length]
        shape = [*points.shape[:2], 1, 1, 1]
        shape[axis + 2] = length
        bumps = bump.view(shape) if bumps is None else bumps * bump.view(shape)
    assert bumps is not None
    return tuple((bumps * (signs == sign)[:, :, None, None, None]).amax(dim=1, keepdim=True) for sign in (1, 0))  # type: ignore[return-value]


def _weights(
    marks: Marks, previous: Tensor, box: Tensor, ellipsoid: Tensor, positive: Tensor, negative: Tensor
) -> tuple[Tensor, Tensor]:
    """How much a voxel counts for the target's brightness and for the background's.

    With a mask of the round before: that mask and its complement. Before: the core of the box, little of it once
    there are clicks, and what lies outside the box. The surroundings of clicks always count.
    """
    power = (CLICK / PATCH) ** 2
    clicked, refused = positive**power, negative**power
    has = (previous.abs().amax(dim=(1, 2, 3, 4), keepdim=True) > 0).float()
    any_click = (clicked.amax(dim=(1, 2, 3, 4), keepdim=True) > 0).float()
    core = torch.where(any_click > 0, 0.1, 1.0) * (ellipsoid < CORE).float() * (box > 0.5)
    chance = torch.sigmoid(previous)
    inner = has * chance + (1 - has) * core
    outer = has * (1 - chance) + (1 - has) * (1 - box)
    total = inner.sum(dim=(1, 2, 3, 4), keepdim=True)
    boost = (0.5 * total / clicked.sum(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1e-3)).clamp(min=1.0)
    inner = (inner + boost * clicked) * (1 - refused)
    return inner, (outer + 20.0 * refused) * (1 - clicked)


def _likeness(bins: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """Log ratio of two weighted histograms at every voxel's bin, -4..4. [Q, 1, D, H, W]."""
    logs = []
    for weight in (inner, outer):
        counts = torch.zeros(len(bins), BINS).scatter_add_(1, bins.flatten(1), weight.flatten(1))
        smooth = F.conv1d(F.pad(counts[:, None], (2, 2), mode="replicate"), _kernel())[:, 0]
        logs.append(torch.log(smooth / smooth.sum(dim=1, keepdim=True).clamp(min=1e-6) + 2e-3))
    ratio = (logs[0] - logs[1]).clamp(-4, 4)
    return ratio.gather(1, bins.flatten(1)).view_as(inner)


def _kernel() -> Tensor:
    return torch.tensor([[[1.0, 4.0, 6.0, 4.0, 1.0]]]) / 16


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1e-6)
    return (values * weight).sum(dim=(1, 2, 3, 4), keepdim=True) / total


def _cost(level: Tensor) -> Tensor:
    """Cost of a step: the strength of the edge against the usual one, squared, and a floor. [B, 1, D, H, W]."""
    smooth = level
    for axis in range(3):
        padded = F.pad(smooth, [1 if i // 2 == 2 - axis else 0 for i in range(6)], mode="replicate")
        n = smooth.shape[2 + axis]
        a, b, c = (padded.narrow(2 + axis, k, n) for k in range(3))
        smooth = 0.25 * a + 0.5 * b + 0.25 * c
    square = torch.zeros_like(smooth)
    for axis in range(3):
        padded = F.pad(smooth, [1 if i // 2 == 2 - axis else 0 for i in range(6)], mode="replicate")
        n = smooth.shape[2 + axis]
        square = square + (padded.narrow(2 + axis, 2, n) - padded.narrow(2 + axis, 0, n)) ** 2
    usual = square.flatten(1).median(dim=1).values.view(-1, 1, 1, 1, 1) + 1e-5
    return (square / usual).clamp(max=30) + 0.1


def _seeds(boxed: Tensor, box: Tensor, ellipsoid: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Where paths begin: 1 at sure voxels of the target, and of what is beside it. [Q, 1, D, H, W] each."""
    clicked, refused = (positive > 0.6).float(), (negative > 0.6).float()
    any_click = clicked.amax(dim=(1, 2, 3, 4), keepdim=True)
    core = ((ellipsoid < SEED) & (box > 0.5)).float()
    seeds = torch.where(any_click > 0, clicked, core) * (1 - refused)
    outside = (box < 0.5).float() * boxed
    return seeds, (torch.maximum(outside, refused)) * (1 - clicked)


def _paths(cost: Tensor, seeds: Tensor) -> Tensor:
    """Cost of the cheapest path along the grid's axes from any seed, by sweeps. [Q, S, D, H, W]; 200 at most."""
    found = torch.where(seeds > 0, 0.0, 200.0)
    for _ in range(SWEEPS):
        for axis in (2, 3, 4):
            n = found.shape[axis]
            slabs, steps = found.unbind(axis), cost.unbind(axis)
            forward = [slabs[0]]
            for i in range(1, n):
                forward.append(torch.minimum(slabs[i], forward[-1] + steps[i]))
            back = [forward[-1]]
            for i in range(n - 2, -1, -1):
                back.append(torch.minimum(forward[i], back[-1] + steps[i]))
            found = torch.stack(back[::-1], dim=axis)
    return found
