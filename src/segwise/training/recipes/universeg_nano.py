"""`universeg`, small: in-context segmentation learned on slices of procedural worlds and persons.

A task is one structure of a world, or of two persons' region, seen in one way: contrast, flips and turns are drawn a
task, small shifts and zooms a slice (Butoi et al., arXiv 2304.06131, section 3.3 and appendix: task and in-task
augmentation). One slice is the query, others are the support set.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from segwise.geometry import Array
from segwise.nets.universeg import UniverSegNet
from segwise.synth.appearance import STYLES, shoot
from segwise.synth.regions import REGIONS, region
from segwise.synth.worlds import World, world
from segwise.training import halves
from segwise.training.contract import Measures, Recipe, Settings
from segwise.training.slices import FIRST_SEED, mask_loss, overlaps

NAME, FILE = "universeg-nano", "universeg_nano.safetensors"
WIDTHS, SIZE = (32, 32, 32, 32), 64
STEPS = 4500
TASKS, SUPPORT = 4, (4, 9)  # a batch; fewest support slices, and one more than most
AT_HAND, BATCHES = 6, 12  # scenes that a batch draws from; batches until the oldest gives way
KINDS = 12  # structures of a scene
PERSONS = 0.3  # share of the scenes that are two persons' region
LEAST = 25  # pixels of a structure on its slice, of side SIZE
EMPTY = 0.2  # share of the slices that do not show the structure
FRESH, VALID = 100_000, 6  # index that no training comes to, and batches of a validation


class Batch(NamedTuple):
    """Tasks with their support sets: float32 [B, 1, S, S], [B, S, S], [B, N, 1, S, S], [B, N, 1, S, S], all in 0..1."""

    query: Array
    wanted: Array
    images: Array
    masks: Array


@dataclass(frozen=True)
class Tasks:
    """The stream.

    Attributes:
        seed: of everything.
        size: side of a slice.
        tasks: a batch.
        persons: share of the scenes that are persons.
    """

    seed: int
    size: int = SIZE
    tasks: int = TASKS
    persons: float = PERSONS

    def batch(self, index: int) -> Batch:
        """All tasks with as many support slices."""
        rng = np.random.default_rng([self.seed, index, 17])
        n = int(rng.integers(*SUPPORT))
        made: list[tuple[Array, Array]] = []
        while len(made) < self.tasks:
            number = index // BATCHES + AT_HAND - int(rng.integers(0, AT_HAND))
            task = _task(_scene(self.seed, number, self.persons), rng, n, self.size)
            made += [] if task is None else [task]
        images, masks = (np.stack(parts).astype(np.float32) for parts in zip(*made, strict=True))  # [B, 1 + N, S, S]
        return Batch(images[:, :1], masks[:, 0], images[:, 1:, None], masks[:, 1:, None])


class _Scene(NamedTuple):
    shots: tuple[Array, ...]  # uint8 [D, H, W], one a person
    soft: tuple[Array, ...]  # uint8 [K, D, H, W] of 0..255


@functools.lru_cache(maxsize=2 * AT_HAND)
def _scene(seed: int, number: int, persons: float) -> _Scene:
    """A world, or two persons with the structures that both have, as scans of one make."""
    rng = np.random.default_rng([seed, number, 18])
    first = FIRST_SEED + 10_000_000 * seed + 2 * number
    if rng.random() < persons:
        name = sorted(REGIONS)[int(rng.integers(len(REGIONS)))]
        worlds = [region(name, first), region(name, first + 1)]
    else:
        worlds = [world(first)]
    tables: list[dict[Any, tuple[int, ...]]] = [
        dict(one.targets) if len(worlds) > 1 else dict(enumerate(ids for _, ids in one.targets)) for one in worlds
    ]
    kinds = sorted(set.intersection(*(set(table) for table in tables)), key=str)
    kinds = [kinds[i] for i in sorted(rng.permutation(len(kinds))[:KINDS].tolist())]  # each costs as much as its image
    turn, style = rng.permutation(3), str(rng.choice(STYLES))
    draws = int(rng.integers(2**31))
    shots, softs = [], []
    for one, table in zip(worlds, tables, strict=True):
        image, soft = _shot(one, [table[kind] for kind in kinds], turn, style, np.random.default_rng(draws))
        shots.append(image)
        softs.append(soft)
    return _Scene(tuple(shots), tuple(softs))


def _shot(one: World, ids: list[Any], turn: Array, style: str, rng: np.random.Generator) -> tuple[Array, Array]:
    labels = one.phantom.labels.transpose(turn)
    shot = shoot(labels, (1, 1, 1), one.phantom.tissues, rng, factors=(1, 1, 1), targets=ids, style=style)
    low, high = np.percentile(shot.image, (0.5, 99.5))
    grey = np.clip((shot.image - low) / max(float(high - low), 1e-6), 0, 1)
    return np.rint(grey * 255).astype(np.uint8), np.rint(shot.soft * 255).astype(np.uint8)


def _task(scene: _Scene, rng: np.random.Generator, n: int, size: int) -> tuple[Array, Array] | None:
    """(images, masks) [1 + n, size, size] in 0..1, the query first; None if too few slices show the structure."""
    if not len(scene.soft[0]):
        return None
    k = int(rng.integers(len(scene.soft[0])))
    areas = [(soft[k] >= 128).sum(axis=(1, 2)) for soft in scene.soft]
    least = [LEAST * image.shape[1] * image.shape[2] / size**2 for image in scene.shots]
    there = [np.flatnonzero(area >= few) for area, few in zip(areas, least, strict=True)]
    if min(map(len, there)) < 2:
        return None
    own = int(rng.integers(len(scene.shots)))
    other = (own + 1) % len(scene.shots)
    query = int(rng.choice(there[own])) if rng.random() > EMPTY else int(rng.integers(len(areas[own])))
    rest = there[other][there[other] != query] if own == other else there[other]
    places = [
        int(rng.choice(rest)) if i < 2 or rng.random() > EMPTY else int(rng.integers(len(areas[other])))
        for i in range(n)
    ]
    way = _way(rng)
    cut = [(scene.shots[own][query], scene.soft[own][k, query])]
    cut += [(scene.shots[other][i], scene.soft[other][k, i]) for i in places]
    moved = [_moved(image, soft, way, rng, size) for image, soft in cut]
    images = np.stack([image for image, _ in moved])
    return _toned(images, way, rng), np.stack([mask for _, mask in moved])


class _Way(NamedTuple):
    """How all slices of a task are seen."""

    turns: int
    flip: bool
    zoom: float
    gamma: float
    inverted: bool
    noise: float


def _way(rng: np.random.Generator) -> _Way:
    return _Way(
        turns=int(rng.integers(4)),
        flip=bool(rng.random() < 0.5),
        zoom=float(np.exp(rng.uniform(-0.15, 0.35))),
        gamma=float(np.exp(rng.uniform(-0.5, 0.5))),
        inverted=bool(rng.random() < 0.15),
        noise=float(rng.choice((0.0, rng.uniform(0, 0.06)))),
    )


def _moved(image: Array, soft: Array, way: _Way, rng: np.random.Generator, size: int) -> tuple[Array, Array]:
    """A slice and its mask in 0..1 at the size of the net: as its task is seen, a little shifted, turned, zoomed."""
    h, w = image.shape
    zoom = way.zoom * float(np.exp(rng.normal(0, 0.06))) * size / max(h, w)
    matrix = cv2.getRotationMatrix2D((w / 2, h / 2), float(rng.normal(0, 7)), zoom)
    matrix[:, 2] += size / 2 - np.array([w, h]) / 2 + rng.normal(0, 0.04 * size, 2)
    found = [cv2.warpAffine(x, matrix, (size, size), flags=cv2.INTER_LINEAR) / np.float32(255) for x in (image, soft)]
    found = [np.rot90(x[:, ::-1] if way.flip else x, way.turns) for x in found]
    return found[0], found[1]


def _toned(images: Array, way: _Way, rng: np.random.Generator) -> Array:
    tones = 1 - images if way.inverted else images
    return np.clip(tones**way.gamma + rng.normal(0, 1, tones.shape) * way.noise, 0, 1)


@dataclass
class InContext:
    """The objective: soft Dice and cross-entropy of the query.

    Attributes:
        net: without a support set of its own.
        held_out: the stream of batches that are never trained on.
    """

    net: UniverSegNet
    held_out: Tasks

    @functools.cached_property
    def valid(self) -> list[Batch]:
        """Batches of scenes that share nothing."""
        return [self.held_out.batch(FRESH + i * BATCHES * AT_HAND) for i in range(VALID)]

    def losses(self, batch: Batch, rng: np.random.Generator) -> Iterator[tuple[Tensor, Measures]]:
        """One step a batch."""
        loss, score = self._judged(batch)
        yield loss, {"dsc": score}

    def validate(self) -> Measures:
        """Mean DSC of the queries that show the structure."""
        return {"dsc": float(np.nanmean([self._judged(batch)[1] for batch in self.valid]))}

    def _judged(self, batch: Batch) -> tuple[Tensor, float]:
        device = next(self.net.parameters()).device
        query, wanted, images, masks = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in batch)
        logits = self.net(query, images, (masks >= 0.5).to(images.dtype)).float()
        scores = overlaps(logits, wanted)[1][:, 0]
        shown = wanted.flatten(1).amax(dim=1) >= 0.5
        score = float(scores[shown].mean()) if shown.any() else float("nan")
        return mask_loss(logits, wanted, balance=0.5).mean(), score


def recipe(*, seed: int = 0, steps: int | None = None) -> Recipe:
    """All of the training.

    Args:
        seed: of weights and tasks.
        steps: of the schedule; None for those that the nano weights are meant to get.
    """
    torch.manual_seed(seed)
    net = UniverSegNet(WIDTHS, size=SIZE)

    def save(folder: Path, trained: nn.Module, known: Mapping[str, Any]) -> list[Path]:
        return halves.save(folder / FILE, trained, known, config={"size": SIZE})

    return Recipe(
        name=NAME,
        objective=InContext(net, Tasks(seed + 500)),
        stream=Tasks(seed),
        settings=Settings(
            steps=steps or STEPS, rate=1e-3, warmup=100, decay=0.01, precision="bf16", seed=seed, validate_every=300
        ),
        save=save,
        note="nano, trained on synthetic data: slices of procedural worlds and persons",
    )
