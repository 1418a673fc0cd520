"""Torsos of rare anatomy: a kidney removed, an accessory spleen, a transplanted kidney, metal at the spine.

Everything else of such a person is `torso`'s, so that what a model loses on them is the anatomy's. What is doubled
belongs to the structure by name; metal is no structure, but it shows, and its streaks lie over what is near.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from segwise.geometry import Array, Volume
from segwise.synth.absent import without
from segwise.synth.imaging import Scan, ct
from segwise.synth.phantom import Phantom, Tissue
from segwise.synth.shapes import Space, blob, cut, join, tube
from segwise.synth.torso import CAVITY, torso

KINDS = ("kidney removed", "accessory spleen", "transplanted kidney", "metal rods at the spine")
METAL = Tissue(12000.0)  # titanium and steel lie above what a scanner's 12 bits hold: its voxels are cut at 3,071 HU
METAL_HU = 2500.0  # nothing else in a body is as bright
ROD_MM, SCREW_MM = 3.0, 3.2  # radii: rods of 5.5 to 6.35 mm and pedicle screws of 5.5 to 7 mm are usual
ANGLES = 90
GAP_MM = 7.0  # of a doubled organ from the one it belongs to: more than a voxel of the scans that are made


def rare_torso(seed: int, *, spacing_mm: Sequence[float]) -> Scan:
    """A CT of one imaginary person whose anatomy is rare, which `anatomy` of the scan tells in words.

    Args:
        seed: decides the person as `torso`'s does, and the kind: `KINDS` in turn.
        spacing_mm: (d, h, w) of the scan.

    Returns:
        The scan; a removed organ has no label any more, a doubled one two parts under its name.
    """
    rng = np.random.default_rng([seed, 71])
    kind, person = KINDS[seed % len(KINDS)], torso(seed, spacing_mm=2.2)
    if kind == "kidney removed":
        gone = f"{rng.choice(('left', 'right'))} kidney"
        return _told(ct(without(person, {gone}), seed, spacing_mm=spacing_mm), f"{gone} removed")
    if kind == "accessory spleen":
        return _told(ct(_second_spleen(person, rng), seed, spacing_mm=spacing_mm), kind)
    if kind == "transplanted kidney":
        return _told(ct(_third_kidney(person, rng), seed, spacing_mm=spacing_mm), kind)
    scan = ct(_rods(person), seed, spacing_mm=spacing_mm)
    return _told(streaked(scan, rng, depth_hu=float(rng.uniform(180, 320))), kind)


def streaked(scan: Scan, rng: np.random.Generator, *, depth_hu: float) -> Scan:
    """A CT with the streaks of the metal that it shows.

    Along each ray the metal's path p adds an error to the line integral: beam hardening, which grows as p squared, and
    noise of starved detectors, which grows with p. Their filtered back-projection, slice by slice, is what is added:
    dark bands between pieces of metal, and rays.

    Args:
        scan: a CT with voxels above `METAL_HU`; without any it comes back as it is.
        rng: of the noise.
        depth_hu: the 99th percentile of what is added, in size, over all voxels 8 to 40 mm from metal.

    Source: the causes are De Man et al., IEEE Trans. Nucl. Sci. 46(3), 1999, doi:10.1109/23.775600; the two error
        terms in place of a scanner's spectrum and detectors are a simplification of ours.
    """
    image = scan.volume.array[0].astype(np.float32)
    metal = image > METAL_HU
    if not metal.any():
        return scan
    added = _back_projected(metal, scan.volume.grid.spacing_mm, rng)
    near = ndimage.distance_transform_edt(~metal, scan.volume.grid.spacing_mm)
    added *= depth_hu / np.percentile(np.abs(added[(near > 8) & (near < 40)]), 99)
    out = np.where(metal | (image < -950), image, image + added)
    volume = Volume.of(
        np.rint(np.clip(out, -1024, 3071)).astype(scan.volume.array.dtype), scan.volume.grid, scan.volume.channels
    )
    return dataclasses.replace(scan, volume=volume)


def _back_projected(metal: Array, spacing_mm: Sequence[float], rng: np.random.Generator) -> Array:
    """float32 [D, H, W]: the image of the errors that metal makes in the line integrals of each slice, any unit."""
    scaled = ndimage.zoom(metal.astype(np.float32), (1, spacing_mm[1] / spacing_mm[2], 1), order=1)  # square pixels
    side = int(np.ceil(np.hypot(*scaled.shape[1:]))) | 1
    pads = [(side - n) // 2 for n in scaled.shape[1:]]
    square = np.zeros((len(metal), side, side), np.float32)
    inner = (slice(None), *(slice(p, p + n) for p, n in zip(pads, scaled.shape[1:], strict=True)))
    square[inner] = scaled
    turns = np.fft.fftfreq(side)
    ramp = np.abs(turns) * (0.5 + 0.5 * np.cos(2 * np.pi * turns))  # with a Hann window, as soft kernels have
    total = np.zeros_like(square)
    for angle in np.arange(ANGLES) * 180.0 / ANGLES:
        path = ndimage.rotate(square, angle, axes=(1, 2), reshape=False, order=1).sum(axis=1)  # [D, W]
        error = -(path**2) + 0.8 * path * rng.standard_normal(path.shape)
        sharp = np.fft.ifft(np.fft.fft(error, axis=1) * ramp, axis=1).real.astype(np.float32)
        total += ndimage.rotate(np.repeat(sharp[:, None], side, axis=1), -angle, axes=(1, 2), reshape=False, order=1)
    back = total[inner]
    return np.asarray(ndimage.zoom(back, [n / m for n, m in zip(metal.shape, back.shape, strict=True)], order=1))


def _second_spleen(person: Phantom, rng: np.random.Generator) -> Phantom:
    """A ball of 14 to 20 mm in the fat beside the spleen, of the spleen's tissue."""
    for radius in np.arange(rng.uniform(7.0, 10.0), 4.0, -0.5):
        room = ndimage.distance_transform_edt(_fat(person), person.grid.spacing_mm)
        far = ndimage.distance_transform_edt(~_of(person, "spleen"), person.grid.spacing_mm)
        places = np.argwhere((room > radius + 1) & (far > radius + GAP_MM) & (far < radius + GAP_MM + 25))
        if len(places):
            shape = blob(_space(person, rng), person.grid.mm(places[int(rng.integers(len(places)))])[0], (radius,) * 3)
            return _with(person, shape, _tissue_of(person, "spleen"), "spleen", _fat(person))
    raise AssertionError("no fat beside the spleen")  # of no seed of `torso`


def _third_kidney(person: Phantom, rng: np.random.Generator) -> Phantom:
    """A kidney in the front of the lower abdomen on the left, the rest of it below what the scan shows."""
    size = person.grid.shape[2] * person.grid.spacing_mm[2] / 350  # of the person
    centre = (np.array((-84, 24, -60)) + rng.normal(0, 3, 3)) * (size, size, 1)
    bean = cut(
        blob(_space(person, rng), centre, (25, 23, 46), tilt=(0, -12, 16)),
        blob(_space(person, rng), centre + (26, 8, 0), (15, 14, 18)),
    )
    others = np.isin(person.labels, list(person.names))
    own = ndimage.distance_transform_edt(~_of(person, "left kidney"), person.grid.spacing_mm)
    return _with(
        person, bean, _tissue_of(person, "left kidney"), "left kidney", _inside(person) & ~others & (own > GAP_MM)
    )


def _rods(person: Phantom) -> Phantom:
    """Two rods behind the spine and a pair of screws into every vertebra, 31 mm apart as those of `torso` are."""
    cord = _of(person, "spinal cord")
    heights = np.flatnonzero(cord.any(axis=(1, 2)))
    middle = np.array([person.grid.mm([d, *np.argwhere(cord[d]).mean(axis=0)])[0] for d in heights])  # [N, 3] mm
    plain = Space.of(person.grid, np.random.default_rng(0), warp_mm=0.0, scale_mm=34)
    every, parts = max(1, round(31 / person.grid.spacing_mm[0])), []
    for side in (-1, 1):
        parts.append(tube(plain, middle[::4] + (side * 17, -13, 0), [ROD_MM] * len(middle[::4])))
        for at in middle[every // 2 :: every]:
            parts.append(tube(plain, [at + (side * 17, -13, 0), at + (side * 9, 34, 0)], [SCREW_MM] * 2))
    return _with(person, join(*parts), METAL, "", person.labels != 0)


def _with(person: Phantom, shape: Array, tissue: Tissue, name: str, where: Array) -> Phantom:
    """The phantom with a shape painted under a new label, where it may be."""
    label = max(person.tissues) + 1
    labels = person.labels.copy()
    labels[(shape < 0) & where] = label
    names = {**person.names, label: name} if name else dict(person.names)
    return Phantom(labels, person.grid, {**person.tissues, label: tissue}, names)


def _space(person: Phantom, rng: np.random.Generator) -> Space:
    return Space.of(person.grid, rng, warp_mm=1.0, scale_mm=34)


def _of(person: Phantom, name: str) -> Array:
    return np.isin(person.labels, [label for label, own in person.names.items() if own == name])


def _tissue_of(person: Phantom, name: str) -> Tissue:
    return next(person.tissues[label] for label, own in person.names.items() if own == name)


def _fat(person: Phantom) -> Array:
    return np.isin(person.labels, [label for label, tissue in person.tissues.items() if tissue == CAVITY])


def _inside(person: Phantom) -> Array:
    """The cavity with all that lies in it, as far as it is not wall: fat and what fat encloses slice by slice."""
    fat = ndimage.binary_closing(_fat(person), iterations=2)
    return np.stack([ndimage.binary_fill_holes(one) for one in fat])


def _told(scan: Scan, anatomy: str) -> Scan:
    return dataclasses.replace(scan, anatomy=anatomy)
