"""Geometry of a model without its weights: the net is replaced by one that shows what it was given.

A scene is a bright block, off centre and of another length on every axis, on a grid of any orientation, spacing and
slant. The probe answers with the image it saw, or with the prompt drawn on its view; either way the mask must lie where
the block lies in the world, within one voxel.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import torch

from segwise.geometry import Channel, Grid, Volume
from segwise.nets.contract import Decoded, PromptNet
from segwise.prompt import Box, Points, Prompt
from segwise.segmenter import Ask
from segwise.store import FeatureStore

BLOCK = ((0.25, 0.55), (0.4, 0.85), (0.15, 0.45))  # shares of the extent along R, A, S
SIZE_MM = (96.0, 120.0, 80.0)  # of the scene along R, A, S
RADIUS = 6.0  # voxels of the view drawn around a point


def orientations() -> list[str]:
    """The 48 ways to store three patient axes, as "RAS"."""
    letters = (("R", "L"), ("A", "P"), ("S", "I"))
    return [
        "".join(letters[axis][flip] for axis, flip in zip(order, flips, strict=True))
        for order in itertools.permutations(range(3))
        for flips in itertools.product((0, 1), repeat=3)
    ]


def grid(axes: str, *, spacing_mm: tuple[float, float, float] = (2.0, 2.5, 4.0), slant: float = 0.0) -> Grid:
    """A grid of the scene.

    Args:
        axes: how it is stored, one of `orientations()`.
        spacing_mm: along R, A and S.
        slant: degrees of a rotation about the axis (1, 1, 1).
    """
    shape = tuple(round(size / step) for size, step in zip(SIZE_MM, spacing_mm, strict=True))
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = (-30.0, 15.0, 200.0)
    return Grid(shape, _turned(slant) @ affine).toward(axes)


def inside(where: Grid, *, slant: float = 0.0) -> np.ndarray:
    """bool [*shape]: the block on a grid."""
    straight = np.linalg.inv(_turned(slant))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in where.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    xyz = where.mm(index) @ straight[:3, :3].T - np.array([-30.0, 15.0, 200.0])
    low, high = (np.array([share[i] for share in BLOCK]) * SIZE_MM for i in (0, 1))
    return ((xyz >= low) & (xyz < high)).all(axis=1).reshape(where.shape)


def scene(where: Grid, *, slant: float = 0.0, modality: str = "CT") -> tuple[Volume, np.ndarray]:
    """The volume (−100 and 200 HU) and the block's mask."""
    mask = inside(where, slant=slant)
    image = np.where(mask, 200.0, -100.0) if modality == "CT" else np.where(mask, 300.0, 20.0)
    return Volume.of(image.astype(np.float32), where, (Channel(modality),)), mask


def boxed(mask: np.ndarray, where: Grid) -> Prompt:
    """The block's tight box."""
    places = np.argwhere(mask)
    return Prompt((Box.of(where, places.min(axis=0).tolist(), (places.max(axis=0) + 1).tolist()),))


def pointed(mask: np.ndarray, where: Grid) -> Prompt:
    """One positive point at the block's middle."""
    places = np.argwhere(mask)
    return Prompt((Points(where.mm(places.mean(axis=0)[None]), np.array([True])),))


class Probe(PromptNet):
    """Answers with the "image" it saw (above the middle of its range), or with the "prompt" drawn on the view."""

    def __init__(self, show: str) -> None:
        super().__init__()
        self.show = show
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def encode(self, image):
        return image

    def decode(self, features, marks):
        view = features[marks.image][:, :1]
        drawn = view - (view.amin() + view.amax()) / 2 if self.show == "image" else self._drawn(view, marks)
        return Decoded(drawn.float(), low_res=drawn[:, :, 0].float())

    def _drawn(self, view, marks):
        out = torch.full_like(view, -1.0)
        axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in view.shape[2:]), indexing="ij")
        place = torch.stack(axes, dim=-1)
        for q in range(len(view)):
            if marks.boxes is not None:
                low, high = marks.boxes[q]
                flat = torch.tensor([n == 1 for n in view.shape[2:]])  # a slice: any place along it
                out[q, 0][(((place >= low - 0.5) & (place <= high + 0.5)) | flat).all(dim=-1)] = 1.0
            if marks.points is not None:
                for point, sign in zip(marks.points[q], marks.signs[q], strict=True):
                    if sign == 1:
                        out[q, 0][((place - point) ** 2).sum(dim=-1) <= RADIUS**2] = 1.0
        return out


def answered(model, show: str, volume: Volume, prompt: Prompt) -> np.ndarray:
    """bool [*shape]: what a `Learned` model answers with the probe in place of its net."""
    probed = model.rebuilt(replace(model.parts, net=Probe(show)))
    state = probed.encode(volume, store=FeatureStore())
    return np.asarray(probed.segment(state, [Ask(prompt)])[0].mask(volume.grid))


def off_voxels(found: np.ndarray, expected: np.ndarray) -> float:
    """How far two masks lie apart: the greatest difference of centre or of a face, in voxels of their grid."""
    if not found.any():
        return float("inf")
    a, b = np.argwhere(found), np.argwhere(expected)
    faces = np.abs(a.min(axis=0) - b.min(axis=0)), np.abs(a.max(axis=0) - b.max(axis=0))
    return float(max(np.abs(a.mean(axis=0) - b.mean(axis=0)).max(), *(f.max() for f in faces)))


def off_centre_voxels(found: np.ndarray, expected: np.ndarray) -> float:
    """How far the centres of two masks lie apart, in voxels of their grid."""
    if not found.any():
        return float("inf")
    return float(np.abs(np.argwhere(found).mean(axis=0) - np.argwhere(expected).mean(axis=0)).max())


def _turned(slant: float) -> np.ndarray:
    axis = np.ones(3) / np.sqrt(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.deg2rad(slant)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix
