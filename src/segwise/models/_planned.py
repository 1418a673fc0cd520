"""What nnU-Net's plans say beside the network, and the preprocessing they ask for.

Source: Isensee et al., nnU-Net, Nat Methods 2021 (arXiv 1809.10486) and its inference code. Arrays are (z, y, x) here
as everywhere in Segwise; plans speak of axes after their own `transpose_forward`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from segwise import anatomy
from segwise.errors import GridError, PromptError, SpecError, WeightsError
from segwise.geometry import Array, Grid, Volume, bounds, regrid
from segwise.lifts.anisotropic import THICK, resized, straight, thick_axis
from segwise.lifts.windows import Painting, WindowFrame
from segwise.prompt import Prompt, Text
from segwise.segmenter import Tree

_CODE = "nnunet-1"
_TURNED = {"NibabelIOWithReorient": "SAR", "SimpleITKIOWithReorient": "SAR"}
SCHEMES = (
    *("CTNormalization", "ZScoreNormalization", "NoNormalization"),
    *("RescaleTo01Normalization", "RGBTo01Normalization"),
)
_RESAMPLING = "resample_data_or_seg_to_shape"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What plans and dataset.json say beside the network.

    Attributes:
        axes: where the array axes point before `transpose`; "" for the file's directions.
        transpose: `transpose_forward`.
        spacing_mm: of the configuration, after the transposition; two numbers keep the spacing of slices.
        patch: of a window; (1, h, w) for a 2D net.
        schemes, masked, properties: normalisation of each channel, whether only what is not 0, foreground statistics.
        data, back: arguments of the resampling of the image, and of logits on the way back.
        labels: common names, in channel order without background.
        paint: for regions, what is painted; None for labels.
        mirror: axes of the window that may be mirrored.
    """

    axes: str
    transpose: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    patch: tuple[int, int, int]
    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    properties: tuple[Mapping[str, float], ...]
    data: Mapping[str, Any]
    back: Mapping[str, Any]
    labels: tuple[str, ...]
    paint: Painting | None
    mirror: tuple[int, ...]


class PlannedFrame(WindowFrame):
    """The preprocessing of a plan; its marks are the labels that a text means."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.shape = recipe.patch
        self.digest = hashlib.blake2b(repr((_CODE, recipe)).encode(), digest_size=16).hexdigest()

    def prepare(self, volume: Volume) -> Volume:
        """float32 [C, D, H, W]: cut to what is not 0, normalised, at the plans' spacing.

        Raises:
            PromptError: the volume has another number of channels.
        """
        cut = self.cut(volume)
        inside = _not_zero(cut.array)
        channels = [self._normalised(c, cut.array[c], inside) for c in range(len(cut.array))]
        now = cut.grid.spacing_mm
        then = self._spacing(cut.grid)
        shape = [round(a / b * n) for a, b, n in zip(now, then, cut.grid.shape, strict=True)]
        d, h, w = (max(1, n) for n in shape)
        given = self.recipe.data
        apart = _apart(given, now, then)
        orders = {"order": int(given.get("order", 3)), "order_apart": int(given.get("order_z", 0))}
        found = [resized(values, (d, h, w), apart=apart, **orders) for values in channels]
        return Volume.of(np.stack(found).astype(np.float32), cut.grid.resized((d, h, w)), cut.channels)

    def cut(self, volume: Volume) -> Volume:
        """float32, axes in the plans' order, the box around what is not 0 in any channel; what is not finite is 0."""
        wanted = len(self.recipe.schemes)
        if len(volume.array) != wanted:
            raise PromptError(f"this model takes {wanted} channels, the volume has {len(volume.array)}")
        turned = self.turned(volume)
        if turned.array.dtype.kind == "f" and not np.isfinite(turned.array).all():
            finite = np.nan_to_num(turned.array, nan=0.0, posinf=0.0, neginf=0.0)
            turned = Volume.of(finite, turned.grid, turned.channels)
        found = bounds(_not_zero(turned.array))
        low, high = found or ((0, 0, 0), turned.grid.shape)
        here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        array = np.array(turned.array[(slice(None), *here)], dtype=np.float32)
        return Volume.of(array, turned.grid.crop(low, high), volume.channels)

    def turned(self, volume: Volume) -> Volume:
        """The same voxels with the array axes in the plans' order."""
        axes = self.recipe.axes or ordered(volume.grid.axes)
        grid = volume.grid.toward("".join(axes[i] for i in self.recipe.transpose))
        return volume.on(grid, order=0)

    def window(self, grid: Grid, centre: Sequence[int]) -> Grid:
        """A window around an index."""
        low = [c - n // 2 for c, n in zip(centre, self.shape, strict=True)]
        return grid.crop(low, [a + n for a, n in zip(low, self.shape, strict=True)])

    def view(self, prepared: Volume, window: Grid) -> Array:
        """float32 [C, D, H, W]: the part of the prepared volume that the window shows, 0 beyond."""
        return np.asarray(regrid(prepared.array, prepared.grid, window, order=0, outside=0.0), dtype=np.float32)

    def marks(self, prompt: Prompt, window: Grid, seen: Tree) -> tuple[str, ...]:
        """The labels that the prompt's last text means.

        Raises:
            NoSuchStructure: none of them.
            PromptError: there is no text.
        """
        words = [mark.words for mark in prompt.marks if isinstance(mark, Text)]
        if not words:
            raise PromptError("this model takes a structure's name as text")
        return anatomy.among(words[-1], self.recipe.labels)

    def follow(self, mask: Array, window: Grid) -> tuple[str, ...]:
        """Nothing: a mask names no label."""
        return ()

    def restore(self, logits: Array, have: Grid, want: Grid) -> Array:
        """float32 logits at the file's voxels: linear, in plane and across slices as the plans say."""
        given = self.recipe.back
        apart = _apart(given, self._spacing(want), want.spacing_mm)
        return straight(logits, have, want, apart=apart, order_apart=int(given.get("order_z", 0)))

    def _spacing(self, grid: Grid) -> tuple[float, float, float]:
        own = self.recipe.spacing_mm
        d, h, w = own if len(own) == 3 else (grid.spacing_mm[0], *own)
        return d, h, w

    def _normalised(self, channel: int, values: Array, inside: Array) -> Array:
        """float32: a channel by its scheme."""
        scheme, given = self.recipe.schemes[channel], self.recipe.properties[channel]
        if scheme == "CTNormalization":
            cut = np.clip(values, given["percentile_00_5"], given["percentile_99_5"]).astype(np.float32)
            cut -= np.float32(given["mean"])
            return np.asarray(cut / np.float32(max(given["std"], 1e-8)))
        if scheme == "ZScoreNormalization":
            where = inside if self.recipe.masked[channel] and inside.any() else np.ones_like(inside)
            scaled = (values - values[where].mean()) / max(values[where].std(), np.float32(1e-8))
            return np.asarray(np.where(where, scaled, values), dtype=np.float32)
        if scheme == "RescaleTo01Normalization":
            shifted = values - values.min()
            return np.asarray(shifted / max(shifted.max(), np.float32(1e-8)), dtype=np.float32)
        return np.asarray(values / np.float32(255.0 if scheme == "RGBTo01Normalization" else 1.0))


def recipe(
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    chosen: Mapping[str, Any],
    content: Mapping[str, Any],
    *,
    axes: str = "",
) -> Recipe:
    """What plans, dataset.json, a configuration of the plans and the checkpoint's content say beside the network.

    Raises:
        SpecError: the axes make no sense.
        WeightsError: a cascade, or a normalisation or resampling that is not known here.
    """
    if chosen.get("previous_stage"):
        raise WeightsError(
            "this is the second stage of a cascade, which is not supported; give 3d_fullres or 3d_lowres"
        )
    for key in ("resampling_fn_data", "resampling_fn_probabilities"):
        if chosen.get(key, _RESAMPLING) != _RESAMPLING:
            raise WeightsError(f"the plans ask for {chosen[key]}; known is {_RESAMPLING}")
    schemes = tuple(str(s) for s in chosen["normalization_schemes"])
    if strange := sorted(set(schemes) - set(SCHEMES)):
        raise WeightsError(f"the plans ask for {', '.join(strange)}; known are {', '.join(SCHEMES)}")
    axes = axes or _TURNED.get(str(plans.get("image_reader_writer", "")), "")
    if axes:
        _checked(axes)
    by_channel = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    patch = tuple(int(n) for n in chosen["patch_size"])
    flat = len(patch) == 2
    mirror = content.get("inference_allowed_mirroring_axes") or ()
    labels, paint = named(dataset)
    return Recipe(
        axes=axes,
        transpose=tuple(int(i) for i in plans["transpose_forward"]),
        spacing_mm=tuple(float(s) for s in chosen["spacing"]),
        patch=(1, *patch) if flat else patch,  # type: ignore[arg-type]
        schemes=schemes,
        masked=tuple(bool(m) for m in chosen["use_mask_for_norm"]),
        properties=tuple(by_channel.get(str(i), {}) for i in range(len(schemes))),
        data=chosen.get("resampling_fn_data_kwargs") or {"order": 3, "order_z": 0},
        back=chosen.get("resampling_fn_probabilities_kwargs") or {"order": 1, "order_z": 0},
        labels=labels,
        paint=paint,
        mirror=tuple(int(a) + flat for a in mirror),
    )


def named(dataset: Mapping[str, Any]) -> tuple[tuple[str, ...], Painting | None]:
    """Common names of the labels in channel order, and for regions how they are painted.

    Raises:
        WeightsError: dataset.json has no labels, or regions without `regions_class_order`.
    """
    labels = {str(name): value for name, value in (dataset.get("labels") or {}).items() if name != "ignore"}
    if not labels:
        raise WeightsError("the model's dataset.json names no labels; give the folder that holds it beside plans.json")
    sets = {name: frozenset(map(int, v if isinstance(v, list | tuple) else [v])) for name, v in labels.items()}
    front = {name: values for name, values in sets.items() if values != {0}}
    if all(len(values) == 1 for values in sets.values()):
        ordered_names = sorted(front, key=lambda name: min(front[name]))
        return _common(ordered_names), None
    colours = dataset.get("regions_class_order")
    if not colours or len(colours) != len(front):
        raise WeightsError(f"the model has {len(front)} regions; its regions_class_order is {colours}")
    return _common(front), Painting(tuple(int(c) for c in colours), tuple(front.values()))


def resolved(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """A configuration of plans with what it inherits.

    Raises:
        WeightsError: there is no such configuration.
    """
    known = plans.get("configurations", {})
    found: dict[str, Any] = {}
    seen: list[str] = []
    while configuration:
        if configuration not in known or configuration in seen:
            raise WeightsError(f'the plans have no configuration "{configuration}"; they have {", ".join(known)}')
        seen.append(configuration)
        found = {**known[configuration], **found}
        configuration = str(known[configuration].get("inherits_from", ""))
    return found


def ordered(axes: str) -> str:
    """A grid's directions, ordered to slices (S or I), rows (A or P), columns (R or L)."""
    return "".join(next(letter for letter in axes if letter in pair) for pair in ("SI", "AP", "RL"))


def _common(names: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """Common names; as they came where two would be the same."""
    found = [anatomy.resolve(name).name for name in names]
    return tuple(new if found.count(new) == 1 else old for new, old in zip(found, names, strict=True))


def _checked(axes: str) -> None:
    try:
        Grid((1, 1, 1), np.eye(4)).toward(axes)
    except GridError as error:
        raise SpecError(f"nnunet: {error}") from error


def _not_zero(array: Array) -> Array:
    """bool [D, H, W]: some channel is not 0, holes filled."""
    return np.asarray(ndimage.binary_fill_holes((array != 0).any(axis=0)))


def _apart(given: Mapping[str, Any], now: Sequence[float], then: Sequence[float]) -> int | None:
    threshold = float(given.get("separate_z_anisotropy_threshold", THICK))
    return thick_axis(now, then, threshold=threshold, force=given.get("force_separate_z"))
