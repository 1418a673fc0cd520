"""Masks and label maps into files, on the exact grid of the file they belong to.

Nothing of the source file but its geometry is written. A file appears whole or not at all: it is written beside its
place under another name and then renamed.
"""

from __future__ import annotations

import gzip
import os
import secrets
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from segwise.errors import FileError, GridError
from segwise.geometry import Array, Grid
from segwise.io.placing import EXACT_SKEW
from segwise.io.scan import Header
from segwise.io.values import smallest

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
_SCANNER, _ALIGNED = 1, 2  # NIfTI codes of a place: the scanner's, or aligned to something else


def must_be_free(out: Path, image: Path) -> None:
    """Nothing where a mask can be written; said before the work that it would cost.

    Args:
        out: where the mask would go.
        image: the scan; it is never replaced by its own mask.

    Raises:
        FileError: an unknown ending, no such folder, or the place of the scan itself.
    """
    if not out.name.lower().endswith(ENDINGS):
        raise FileError(f"{out.name}: expected a name ending in {', '.join(ENDINGS)}")
    if not out.parent.is_dir():
        raise FileError(f"{out.parent} is not a folder; make it first, or give another place for the mask")
    if out.is_dir():
        raise FileError(f"{out} is a folder; give the name of a file for the mask")
    if out.exists() and image.exists() and out.samefile(image):
        raise FileError(f"{out}: is the scan itself, which the mask would replace; give another name with -o")


def write_mask(
    path: str | PathLike[str], mask: Array, header: Header, *, names: Mapping[int, str] | None = None
) -> Path:
    """Writes a mask or label map and returns where.

    Args:
        path: ends in .nii.gz, .nii, .nrrd or .mha; an existing file is replaced at once.
        mask: bool or integer [D, H, W] on `header.grid` (or the repaired grid of the same scan: same voxels).
        header: of the scan. NIfTI to NIfTI keeps both forms and their codes bit by bit. From other formats the affine
            is stored as NIfTI-1 can: in float32, which moves a voxel by less than 0.0001 mm.
        names: {value: name} from the anatomy vocabulary; written as 3D Slicer segments into NRRD, ignored elsewhere.

    Raises:
        GridError: the mask has another shape than the file.
        FileError: unknown ending, values that are no labels, or the place cannot be written.
    """
    target = Path(path)
    ending = next((e for e in ENDINGS if target.name.lower().endswith(e)), None)
    if ending is None:
        raise FileError(f"{target.name}: expected a name ending in {', '.join(ENDINGS)}")
    if mask.shape != header.grid.shape:
        raise GridError(f"mask is {mask.shape}, expected {header.grid.shape}, the shape of the file it belongs to")
    array = _whole(target.name, mask)
    temporary = target.with_name(f".{secrets.token_hex(6)}.part{ending}")
    try:
        if ending.startswith(".nii"):
            data = _nifti_bytes(array, header)
            temporary.write_bytes(gzip.compress(data, 6, mtime=0) if ending == ".nii.gz" else data)
        else:
            _write_itk(temporary, array, header.grid, names or {})
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        raise FileError(f"{target}: cannot be written ({type(error).__name__}: {error.strerror})") from None
    except RuntimeError:
        raise FileError(f"{target}: cannot be written; is its folder there and writable?") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _whole(name: str, mask: Array) -> Array:
    if mask.dtype == bool:
        return mask.astype(np.uint8)
    if mask.dtype.kind not in "iu":
        raise FileError(f"{name}: the mask is {mask.dtype}, expected bool or integers")
    low, high = (int(mask.min()), int(mask.max())) if mask.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint32).max:
        raise FileError(f"{name}: label values run from {low} to {high}, expected 0 to {np.iinfo(np.uint32).max}")
    return mask.astype(smallest(high))


def _nifti_bytes(array: Array, header: Header) -> bytes:
    forms = header.forms
    large = max(array.shape) > np.iinfo(np.int16).max
    kind = nib.Nifti2Image if large or (forms is not None and forms.version == 2) else nib.Nifti1Image
    affine = header.grid.affine[:, [2, 1, 0, 3]]  # columns back to (i, j, k)
    image = kind(array.transpose(2, 1, 0), None if forms is not None else affine)
    fields = image.header
    if forms is None:
        code = _ALIGNED if header.format == "analyze" else _SCANNER
        fields.set_sform(affine, code=code)
        straight = header.grid.skew <= EXACT_SKEW
        fields.set_qform(affine, code=code if straight else 0, strip_shears=True)
        fields.set_xyzt_units("mm")
    else:
        fields["pixdim"][:4] = forms.pixdim
        fields["qform_code"], fields["sform_code"] = forms.qform_code, forms.sform_code
        for names, values in (("bcd", forms.quaternion), ("xyz", forms.offset)):
            prefix = "quatern_" if names == "bcd" else "qoffset_"
            for name, value in zip(names, values, strict=True):
                fields[prefix + name] = value
        for i, name in enumerate("xyz"):
            fields[f"srow_{name}"] = forms.sform[4 * i : 4 * i + 4]
        fields["xyzt_units"] = forms.units
    return _assembled(fields, array)


def _assembled(fields: nib.Nifti1Header, array: Array) -> bytes:
    """Header, no extension, voxels. Written here because nibabel's images renew the forms they are given."""
    fields["vox_offset"] = fields.single_vox_offset
    fields["scl_slope"], fields["scl_inter"] = 1, 0
    data = array.astype(array.dtype.newbyteorder(fields.endianness), copy=False).tobytes()
    gap = fields.single_vox_offset - fields.sizeof_hdr
    return b"".join([fields.binaryblock, b"\0" * gap, data])


def _write_itk(path: Path, array: Array, grid: Grid, names: Mapping[int, str]) -> None:
    image = sitk.GetImageFromArray(array)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine[:, [2, 1, 0, 3]]  # LPS, columns (i, j, k)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    if path.name.endswith(".nrrd"):
        for n, (value, name) in enumerate(sorted(names.items())):
            called = " ".join("".join(c if c.isprintable() else " " for c in name).split())
            for key, text in (("ID", f"Segment_{value}"), ("Name", called), ("LabelValue", str(value)), ("Layer", "0")):
                image.SetMetaData(f"Segment{n}_{key}", text)
    sitk.WriteImage(image, str(path), True)
