"""Slices and short clips of procedural worlds for promptable 2D nets: views of a frame, targets, simulated prompts.

A batch draws from a few worlds, which change slowly: a world costs as much as many slices of it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segwise.geometry import Array, Channel, Grid, Volume
from segwise.nets.contract import Marks
from segwise.segmenter import Frame
from segwise.synth.appearance import STYLES, shoot
from segwise.synth.regions import region
from segwise.synth.worlds import world

FIRST_SEED = 1_000_000  # of worlds of training; those of tests and benchmarks are below
AT_HAND = 6  # worlds that a batch draws from
BATCHES = 8  # until the oldest of them gives way to a new one
LEAST = 12  # voxels of a target on its slice
REGIONS = ("abdomen", "thorax", "pelvis", "brain", "neck", "thigh")  # head and torso are for testing
UPRIGHT = 0.7  # of the bodies
MOST = 20  # targets of a body
EARLY, LATE = 1.0, 0.5  # balance of the mask loss in the first batches and in the others
BOTH_WAYS = 0.35  # of the clips go one way, then the other
HALF = 0.5


class Clip(NamedTuple):
    """Some slices of one window.

    Attributes:
        views: float32 [T, 3, 1, S, S].
        masks: uint8 [K, T, h, w]: the share of each voxel, of 255, that a target fills; each is on the first slice.
        extent: (rows, columns) of a view that show the window.
        early: of the first batches, which are easier.
        places: where each slice lies from the first of them, in slices; those behind it come last.
    """

    views: Array
    masks: Array
    extent: tuple[int, int]
    early: bool = False
    places: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Slices:
    """The stream of clips.

    Attributes:
        frame: of the net; its `view` and `queries` are all the preprocessing.
        seed: of everything.
        views: a batch, at most: clips of one slice are more than longer ones.
        targets: at most, a clip.
        n_slices: slices of a clip, at most; the number is drawn a batch.
        longer_from: batches before this index show one slice.
        easy_until: batches before this index are zoomed to a target.
        single: share of the others that do so too.
        thickest: voxels of a world a slice, at most.
        bodies: share of the scenes that are phantoms of body regions; the others are worlds of shapes.
    """

    frame: Frame[Any]
    seed: int
    views: int
    targets: int
    n_slices: int = 1
    longer_from: int = 0
    easy_until: int = 0
    single: float = 0.15
    thickest: float = 4.0
    bodies: float = 0.0

    def batch(self, index: int) -> list[Clip]:
        """Clips of one length."""
        rng = np.random.default_rng([self.seed, index, 7])
        newest = index // BATCHES + AT_HAND
        made: list[Clip] = []
        short = index < self.longer_from or self.n_slices == 1 or rng.random() < self.single
        n = 1 if short else int(rng.integers(2, self.n_slices + 1))
        offsets = _offsets(n, rng)
        while len(made) < max(1, self.views // n):
            number = int(newest - rng.integers(0, AT_HAND))
            scene = _scene(self.frame, self.seed, number, self.thickest, self.bodies)
            clip = _clip(self.frame, scene, rng, most=self.targets, offsets=offsets, early=index < self.easy_until)
            made += [] if clip is None else [clip]
        return made


class _Scene(NamedTuple):
    prepared: Volume
    soft: Array  # uint8 [K, D, H, W]
    areas: Array  # int [K, D]: voxels at least half full


@functools.lru_cache(maxsize=2 * AT_HAND)
def _scene(frame: Frame[Any], seed: int, number: int, thickest: float, bodies: float) -> _Scene:
    """A world or a body as a scan, turned at random; bodies mostly as they stand, mirrored at most."""
    rng = np.random.default_rng([seed, number, 8])
    body = bool(bodies) and bool(rng.random() < bodies)
    name = REGIONS[int(rng.integers(len(REGIONS)))] if body else ""
    drawn = FIRST_SEED + 10_000_000 * seed + number
    one = region(name, drawn) if body else world(drawn)
    labels, spacing = one.phantom.labels, np.array(one.phantom.grid.spacing_mm)
    if body and rng.random() < UPRIGHT:
        labels = labels[:, :, :: int(rng.choice((-1, 1)))]
    else:
        turn = rng.permutation(3)
        labels, spacing = labels.transpose(turn), spacing[turn]
        labels = labels[tuple(slice(None, None, int(step)) for step in rng.choice((-1, 1), 3))]
    style = str(rng.choice(STYLES))
    thick = float(np.exp(rng.uniform(0, np.log(thickest))))
    ids = [labels_ for _, labels_ in one.targets]
    if body:
        ids = [ids[i] for i in np.sort(rng.permutation(len(ids))[:MOST])]
    mm = spacing.tolist() if body else (1, 1, 1)
    shot = shoot(labels, mm, one.phantom.tissues, rng, factors=(thick, 1, 1), targets=ids, style=style)
    image = shot.image if style == "ct" else np.maximum(shot.image - np.percentile(shot.image, 1), 0)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, :3] = np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]]) * np.array(shot.spacing_mm)  # to S, P, L
    volume = Volume.of(image[None].astype(np.float32), Grid(image.shape, affine), (Channel(style.upper()),))
    soft = np.rint(shot.soft * 255).astype(np.uint8)
    return _Scene(frame.prepare(volume), soft, (soft >= 128).sum(axis=(2, 3)))


def _clip(
    frame: Frame[Any],
    scene: _Scene,
    rng: np.random.Generator,
    *,
    most: int,
    offsets: tuple[int, ...],
    early: bool,
) -> Clip | None:
    """Slices about a target, or None if the scene shows none."""
    there = np.argwhere(scene.areas >= LEAST)
    if not len(there):
        return None
    kinds = np.unique(there[:, 0])
    one = int(rng.choice(kinds))
    start = int(rng.choice(there[there[:, 0] == one, 1]))
    step = int(rng.choice((-1, 1))) * int(rng.choice((1, 1, 1, 2)))
    places = [int(np.clip(start + step * offset, 0, scene.areas.shape[1] - 1)) for offset in offsets]
    (top, left), (bottom, right) = _window(scene.soft[one, start] >= 128, rng, zoomed=early)
    cut = scene.soft[:, places, top:bottom, left:right]
    counts = (cut[:, 0] >= 128).sum(axis=(1, 2))
    fit = [k for k in np.flatnonzero((counts >= LEAST) & (counts <= 0.9 * cut[0, 0].size)).tolist() if k != one]
    chosen = [one, *rng.permutation(fit)[: most - 1].astype(int).tolist()]
    windows = [scene.prepared.grid.crop((p, top, left), (p + 1, bottom, right)) for p in places]
    views = np.stack([frame.view(scene.prepared, window) for window in windows])
    corner = frame.queries(  # type: ignore[attr-defined]
        np.array([[0.0, bottom - top, right - left]]), np.array([True]), np.zeros((0, 2, 3)), windows[0]
    ).points[0, 0]
    return Clip(views, cut[chosen], (round(float(corner[1])), round(float(corner[2]))), early, offsets)


def _offsets(n: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Of n slices from the first: those to one side, or to one side, then to the other."""
    behind = int(rng.integers(1, n - 1)) if n > 2 and rng.random() < BOTH_WAYS else 0
    return (*range(n - behind), *range(-1, -behind - 1, -1))


def _window(mask: Array, rng: np.random.Generator, *, zoomed: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """(low, high) of a part of a slice with a target in it: the whole slice, or zoomed."""
    shape = np.array(mask.shape)
    found = np.argwhere(mask)
    low, high = found.min(axis=0), found.max(axis=0) + 1
    if rng.random() < 0.35 and not zoomed:
        return (0, 0), (int(shape[0]), int(shape[1]))
    least = np.minimum(np.maximum(1.25 * (high - low).max(), 22), shape)
    most = np.minimum(2.5 * least, shape) if zoomed else shape
    side = np.exp(rng.uniform(np.log(least), np.log(most)))
    side = np.full(2, side.max()) if rng.random() < 0.5 else np.maximum(side, side.max() * 0.6)
    side = np.minimum(np.rint(side).astype(int), shape)
    first = rng.integers(np.clip(high - side, 0, shape - side), np.clip(low, 0, shape - side) + 1)
    return (int(first[0]), int(first[1])), (int(first[0] + side[0]), int(first[1] + side[1]))


def shown(masks: Array, extent: tuple[int, int], size: int) -> Tensor:
    """Targets on the view: uint8 [N, h, w] -> float32 [N, size, size] in 0..1, zeros beyond the window."""
    values = torch.from_numpy(np.ascontiguousarray(masks)).float()[:, None] / 255
    resized = F.interpolate(values, extent, mode="bilinear", align_corners=False, antialias=True)
    return F.pad(resized[:, 0], (0, size - extent[1], 0, size - extent[0]))


class Said(NamedTuple):
    """What is said about one target on a slice, in indices of its window.

    Attributes:
        points: [N, 3] (0, h, w).
        positive: bool [N].
        corners: [0 or 1, 2, 3]: inclusive corners of a box.
    """

    points: Array
    positive: Array
    corners: Array

    def and_point(self, place: tuple[int, int], *, positive: bool) -> Said:
        """With one point more."""
        point = np.array([[0.0, *place]])
        return Said(np.concatenate([self.points, point]), np.append(self.positive, positive), self.corners)


def first_words(mask: Array, rng: np.random.Generator, *, box: bool, n_points: int) -> Said:
    """A box with some jitter and points inside; bool [h, w], not empty."""
    points = np.zeros((0, 3))
    if n_points:
        inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        at = np.argwhere(inside >= rng.uniform(0, 1) * inside.max())
        at = at[rng.integers(0, len(at), n_points)]
        points = np.concatenate([np.zeros((n_points, 1)), at], axis=1)
    corners = np.zeros((0, 2, 3))
    if box:
        found = np.argwhere(mask)
        low, high = found.min(axis=0).astype(np.float64), found.max(axis=0) + 0.0
        slack = rng.choice((0.0, 0.03, 0.08)) * (high - low + 1)
        low, high = low + np.rint(rng.normal(0, slack)), high + np.rint(rng.normal(0, slack))
        low = np.clip(low, 0, np.array(mask.shape) - 1)
        high = np.clip(np.maximum(high, low), 0, np.array(mask.shape) - 1)
        corners = np.array([[[0, *low], [0, *high]]])
    return Said(points, np.ones(n_points, dtype=bool), corners)


def error_point(found: Array, wanted: Array) -> tuple[tuple[int, int], bool]:
    """((h, w), positive) of a click in the middle of the largest error: bool [H, W] each; anywhere inside if none."""
    best, place, positive = 0, None, True
    for sign, wrong in ((True, wanted & ~found), (False, found & ~wanted)):
        n, labels, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8), connectivity=8)
        if n < 2:
            continue
        largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
        if stats[largest, cv2.CC_STAT_AREA] > best:
            best = int(stats[largest, cv2.CC_STAT_AREA])
            inner = cv2.distanceTransform(np.pad(labels == largest, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
            place, positive = np.unravel_index(int(inner.argmax()), inner.shape), sign
    if place is None:
        inner = cv2.distanceTransform(np.pad(wanted, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        place = np.unravel_index(int(inner.argmax()), inner.shape)
    return (int(place[0]), int(place[1])), positive


def clicked(
    said: Sequence[Said],
    logits: Tensor,
    wanted: Tensor,
    extents: Sequence[tuple[int, int]],
    shapes: Sequence[tuple[int, int]],
) -> list[Said]:
    """Each with a click in the middle of the largest error on the view, at the nearest voxel of its window.

    Args:
        said: by query.
        logits: [Q, 1, h, w] of the answers.
        wanted: [Q, H, W], the targets on the view.
        extents: (rows, columns) of the view that show the window.
        shapes: (h, w) of the window.
    """
    full = F.interpolate(logits.float(), wanted.shape[-2:], mode="bilinear", align_corners=False)
    found, target = (full[:, 0] > 0).numpy(), (wanted > HALF).numpy()
    more = []
    for words, mask, mine, (rows, columns), (h, w) in zip(said, found, target, extents, shapes, strict=True):
        (row, column), positive = error_point(mask[:rows, :columns], mine[:rows, :columns])
        more.append(
            words.and_point((int((row + 0.5) * h / rows), int((column + 0.5) * w / columns)), positive=positive)
        )
    return more


def asked(frame: Frame[Any], said: Sequence[Said], images: Sequence[int], shapes: Sequence[tuple[int, int]]) -> Marks:
    """Queries of one make as marks.

    Args:
        frame: places them.
        said: by query, all with as many points and boxes.
        images: by query, which view.
        shapes: by query, (h, w) of its window.
    """
    parts = []
    for words, (h, w) in zip(said, shapes, strict=True):
        window = Grid((1, h, w), np.eye(4))
        parts.append(frame.queries(words.points, words.positive, words.corners, window))  # type: ignore[attr-defined]
    first = parts[0]
    return Marks(
        torch.tensor(list(images)),
        points=None if first.points is None else torch.cat([p.points for p in parts]),
        signs=None if first.signs is None else torch.cat([p.signs for p in parts]),
        boxes=None if first.boxes is None else torch.cat([p.boxes for p in parts]),
    )


def mask_loss(logits: Tensor, wanted: Tensor, *, balance: float) -> Tensor:
    """Soft Dice and cross-entropy of [Q, M, h, w] against the shares that [Q, H, W] has of its pixels: [Q, M].

    Args:
        logits: of the decoder.
        wanted: targets on the view, in 0..1.
        balance: how far foreground and background weigh alike in the cross-entropy, however small the target: 0 every
            pixel counts the same, 1 both count one half. Without it a net that begins with nothing stays there.
    """
    full = logits.float()
    target = F.interpolate(wanted[:, None], full.shape[-2:], mode="area").expand_as(full)
    p = full.sigmoid()
    both = (p * target).sum(dim=(2, 3))
    dice = 1 - (2 * both + 1) / (p.sum(dim=(2, 3)) + target.sum(dim=(2, 3)) + 1)
    share = target.mean(dim=(2, 3), keepdim=True).clamp(0.005, 0.995)
    weight = 1 + target * (((1 - share) / share) ** balance - 1)
    wrong = F.binary_cross_entropy_with_logits(full, target, reduction="none")
    return dice + (weight * wrong).mean(dim=(2, 3)) / weight.mean(dim=(2, 3))


@torch.no_grad()
def overlaps(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """(IoU, DSC) of [Q, M, h, w] with [Q, H, W], each [Q, M]."""
    full = F.interpolate(logits.float(), wanted.shape[-2:], mode="bilinear", align_corners=False) > 0
    target = (wanted > HALF)[:, None]
    both, total = (full & target).sum(dim=(2, 3)), full.sum(dim=(2, 3)) + target.sum(dim=(2, 3))
    return (both + 1e-6) / (total - both + 1e-6), (2 * both + 1e-6) / (total + 1e-6)
