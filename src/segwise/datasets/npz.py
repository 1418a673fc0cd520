"""The npz files of the CVPR challenges on foundation models (MedSAM on laptop, interactive 3D)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from segwise.card import DatasetCard
from segwise.case import Case, Structure
from segwise.datasets._case import Label, broken, described, label_names, modality_of, name_of
from segwise.datasets._files import maybe_json, nothing, relative, stem, visible, within
from segwise.errors import DatasetError, FileError, GridError, SegwiseError
from segwise.geometry import Array, Channel, Grid, Volume

CARD = DatasetCard(
    title="Challenge npz",
    summary="One npz a case with imgs and gts [D,H,W] and spacing; the labels may stand in files of their own.",
    files=(
        "NAME.npz: imgs [D,H,W], gts [D,H,W], spacing (x, y, z), direction (9 numbers) and origin where they are known",
        "or imgs/NAME.npz and gts/NAME.npz, in any two folders",
        "labels.json, if you have it: {value: name}; else the values are read from gts: 'label 1' ...",
    ),
    traps=(
        "spacing is x, y, z but arrays are z, y, x",
        "direction and origin are often absent: then slices are taken as axial in LPS and the place is not known",
        "arrays are LPS, as SimpleITK has them",
        "without labels.json gts is read while listing, as nothing else tells which values it holds",
    ),
    source="CVPR 2025 Foundation Models for Interactive 3D Biomedical Image Segmentation; MedSAM2, arXiv 2504.03600",
)
_MAX_BYTES = 8 * 1024**3


def recognises(root: Path) -> bool:
    """Whether a file *.npz that holds imgs lies in the folder or up to two folders down."""
    return any("imgs" in _keys(path) for path in _all(root))


def cases(root: Path, split: str | None = None) -> Iterator[Case]:
    """The cases that have labels, by name.

    Raises:
        DatasetError: there is no npz with imgs, or none has labels.
    """
    files = [(path, _keys(path)) for path in _all(root)]
    images = [(path, keys) for path, keys in files if "imgs" in keys]
    apart = {stem(path).removesuffix("_gt"): path for path, keys in files if "gts" in keys and "imgs" not in keys}
    names = label_names(maybe_json(root / "labels.json"))
    n = 0
    for path, keys in images:
        labels = path if "gts" in keys else apart.get(stem(path))
        if labels is not None:
            n += 1
            try:
                yield _case(root, path, labels, keys, names=names)
            except SegwiseError as error:
                yield broken(root=root, layout="npz", id=stem(path), reason=str(error))
    if n == 0:
        raise nothing(root, "npz", "NAME.npz with imgs and gts, or a file with gts of the same name in another folder")


def _case(root: Path, path: Path, labels: Path, keys: set[str], *, names: dict[str, tuple[int, ...]]) -> Case:
    values = names or {f"label {v}": (v,) for v in np.unique(_array(labels, "gts")).astype(int).tolist() if v != 0}
    structures, derived, places = described([Label(raw, labels, v) for raw, v in values.items()])
    missing = [key for key in ("spacing", "direction", "origin") if key not in keys]
    files = NpzFiles(path, labels, {name: tuple(v for _, vs in found for v in vs) for name, found in places.items()})
    return Case(
        id=stem(path),
        subject=stem(path),
        dataset=name_of(root),
        layout="npz",
        modality=modality_of(stem(path)),
        images=(relative(path, root),),
        structures=structures,
        load=files.volume,
        load_masks=files.masks,
        notes=(f"{path.name} does not say its {', '.join(missing)}",) if missing else (),
        derived=derived,
    )


@dataclass(frozen=True)
class NpzFiles:
    """Where a case's arrays are.

    Attributes:
        image: the npz with imgs.
        labels: the npz with gts.
        values: label values by name of the structure.
    """

    image: Path
    labels: Path
    values: dict[str, tuple[int, ...]]

    def volume(self) -> Volume:
        """imgs [D, H, W] with its place."""
        array = _array(self.image, "imgs")
        return Volume.of(array, self._grid(array.shape), (Channel(modality_of(stem(self.image))),))

    def masks(self, structures: tuple[Structure, ...]) -> list[Array]:
        """bool [D, H, W] a structure.

        Raises:
            GridError: gts has another shape than imgs.
        """
        array = _array(self.labels, "gts")
        shape = _header(self.image, "imgs")[0]
        if array.shape != shape:
            raise GridError(
                f"{self.image.name} and {self.labels.name}: imgs is {shape}, gts is {array.shape}; "
                f"expected one shape (D, H, W)"
            )
        return [np.isin(array, self.values.get(structure.name, structure.values)) for structure in structures]

    def _grid(self, shape: tuple[int, ...]) -> Grid:
        """Array axes are z, y, x of an LPS frame; RAS turns the signs of x and y."""
        x, y, z = _numbers(self.image, "spacing", 3, (1.0, 1.0, 1.0))
        direction = np.array(_numbers(self.image, "direction", 9, tuple(np.eye(3).ravel()))).reshape(3, 3)
        to_ras = np.diag([-1.0, -1.0, 1.0])
        affine = np.eye(4)
        affine[:3, :3] = to_ras @ (direction * [x, y, z])[:, ::-1]
        affine[:3, 3] = to_ras @ _numbers(self.image, "origin", 3, (0.0, 0.0, 0.0))
        return Grid((shape[0], shape[1], shape[2]), affine)


def _all(root: Path) -> Iterator[Path]:
    for folder in within(root, 2):
        yield from (path for path in visible(folder) if path.suffix.lower() == ".npz" and path.is_file())


def _keys(path: Path) -> set[str]:
    """The names of the arrays in an npz; empty if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return set()


def _header(path: Path, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """(shape, dtype) that an array declares.

    Raises:
        FileError: it cannot be read, holds Python objects or is too large.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
            version = npy.read_magic(file)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(file)
    except KeyError:
        raise FileError(f"{path.name}: holds no array {key}") from None
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise FileError(f"{path.name}: {key} cannot be read ({type(error).__name__}); copy the file again") from None
    if dtype.hasobject:
        raise FileError(f"{path.name}: {key} holds Python objects, which are not read as they can run code")
    if int(np.prod(shape, dtype=np.float64)) * dtype.itemsize > _MAX_BYTES:
        raise FileError(f"{path.name}: {key} declares {shape} values, more than the limit of {_MAX_BYTES:,} bytes")
    return shape, dtype


def _array(path: Path, key: str) -> Array:
    """A [D, H, W] array of numbers."""
    shape, dtype = _header(path, key)
    if len(shape) != 3 or dtype.kind not in "buif":
        raise FileError(
            f"{path.name}: {key} is {dtype} {shape}, expected numbers (D, H, W); colour and 2D are not read"
        )
    return _read(path, key)


def _read(path: Path, key: str) -> Array:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[key])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"{path.name}: {key} cannot be read ({type(error).__name__}); copy the file again") from None


def _numbers(path: Path, key: str, n: int, default: tuple[float, ...]) -> tuple[float, ...]:
    if key not in _keys(path):
        return default
    _header(path, key)
    values = np.asarray(_read(path, key), dtype=np.float64).ravel()
    if values.size != n or not np.isfinite(values).all():
        raise DatasetError(f"{path.name}: {key} has {values.size} values, expected {n} numbers")
    return tuple(float(v) for v in values)
