"""Bytes of hostile and broken checkpoints, each with what the one clear message about it must say."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import tarfile
import warnings as warnings_
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
HUGE = 25_000_000_000  # values: 100 GB in float32


class Calls:
    """An object whose unpickling calls something."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def system(canary: Path) -> Calls:
    return Calls(os.system, f"touch {canary}")


def saved(content: object, **how: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


GOOD = saved({"w": torch.zeros(4)})
OLD = saved({"w": torch.zeros(4)}, _use_new_zipfile_serialization=False)


def rezip(
    edit: Callable[[str, bytes], tuple[str, bytes]], *, packed: bool = False, more: dict[str, bytes] | None = None
):
    """GOOD with its records edited."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(GOOD)) as source, zipfile.ZipFile(stream, "w") as sink:
        for info in source.infolist():
            name, data = edit(info.filename, source.read(info))
            sink.writestr(name, data, zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED)
        for name, data in (more or {}).items():
            sink.writestr(name, data)
    return stream.getvalue()


def repickle(*changes: tuple[bytes, bytes]) -> bytes:
    """GOOD with bytes of its pickle replaced."""

    def edit(name: str, data: bytes) -> tuple[str, bytes]:
        if name.endswith("data.pkl"):
            for old, new in changes:
                assert data.count(old) == 1
                data = data.replace(old, new)
        return name, data

    return rezip(edit)


def long(n: int) -> bytes:
    return b"\x8a\x08" + n.to_bytes(8, "little")


STORAGE = (b"K\x04tq\x07", long(HUGE) + b"tq\x07")
SHAPE = (b"QK\x00K\x04\x85", b"QK\x00" + long(HUGE) + b"\x85")
STRIDE = (b"K\x01\x85", b"K\x00\x85")


def safetensors(header: object, data: bytes = b"\0" * 16, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def f32(begin: int, end: int, *shape: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def tar(canary: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(system(canary))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, w=np.zeros(4))
    return stream.getvalue()


def npy_of_objects(canary: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([system(canary)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def script() -> bytes:
    stream = io.BytesIO()
    with warnings_.catch_warnings():
        warnings_.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    return stream.getvalue()


def quantised() -> bytes:
    content = {"w": torch.zeros(4, 4)}
    stream = io.BytesIO()
    with warnings_.catch_warnings():
        warnings_.simplefilter("ignore")
        torch.save({"w": torch.quantize_per_tensor(content["w"], 0.1, 0, torch.qint8)}, stream)
    return stream.getvalue()


def overlapping_bomb() -> bytes:
    """A zip whose table names the same bytes many times."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", zipfile.ZipFile(io.BytesIO(GOOD)).read("archive/data.pkl"))
        archive.writestr("archive/data/0", b"\0" * 100_000)
        archive.filelist += [archive.filelist[-1]] * 50
    return stream.getvalue()


# name -> (bytes, or a maker given the canary; what the message must say)
BROKEN: dict[str, tuple[bytes | Callable[[Path], bytes], str]] = {
    "os_system": (lambda c: saved({"w": system(c)}), r"asks for (posix|os|nt)\.system, which is code"),
    "eval": (lambda c: saved({"w": Calls(eval, f"open({str(c)!r}, 'w')")}), "asks for .*eval, which is code"),
    "nested_reduce": (
        lambda c: saved({"model": {"w": torch.zeros(2), "deep": [{"x": (1, [system(c)])}]}}),
        r"system, which is code",
    ),
    "callable_class": (lambda c: saved({"w": Calls(subprocess.Popen, ["touch", str(c)])}), "Popen, which is code"),
    "old_torch_with_code": (
        lambda c: saved({"w": system(c)}, _use_new_zipfile_serialization=False),
        "system, which is code|damaged",
    ),
    "bare_pickle": (lambda c: pickle.dumps({"w": system(c)}), "bare pickle, which may hold code"),
    "pickle_of_numbers": (pickle.dumps({"w": [1, 2]}), "bare pickle"),
    "legacy_tar": (tar, "is a tar archive"),
    "whole_module": (saved(torch.nn.Linear(2, 2)), r"asks for torch\.nn\.modules\.linear\.Linear"),
    "torchscript": (script(), "is a TorchScript program"),
    "packed_zip_bomb": (
        rezip(lambda n, d: (n, b"\0" * 50_000_000 if n.endswith("data/0") else d), packed=True),
        "packed records",
    ),
    "overlapping_zip_bomb": (overlapping_bomb(), "declares more bytes than its"),
    "huge_storage": (repickle(STORAGE), "not a file of plain tensors, or cut off or damaged"),
    "huge_shape": (repickle(SHAPE), "not a file of plain tensors, or cut off or damaged"),
    "huge_storage_and_shape": (repickle(STORAGE, SHAPE), "not a file of plain tensors, or cut off or damaged"),
    "huge_by_stride_zero": (repickle(SHAPE, STRIDE), r"w declares \(25000000000,\), which is more than the file"),
    "huge_old_storage": (OLD.replace(b"K\x04Nt", long(HUGE) + b"Nt"), "declares tensors of 25,000,000,000 values"),
    "huge_bytes": (
        rezip(
            lambda n, d: (
                n,
                b"\x80\x02}X\x01\x00\x00\x00wcbuiltins\nbytearray\n" + long(4 * HUGE) + b"\x85Rs."
                if n.endswith("data.pkl")
                else d,
            )
        ),
        "MemoryError|holds w",
    ),
    "zip_path_traversal": (
        rezip(lambda n, d: (n, d), more={"../../evil.sh": b"x"}),
        "records outside its own folder",
    ),
    "truncated_zip": (GOOD[: len(GOOD) // 2], "has no end .*cut off or damaged"),
    "zip_without_record": (
        rezip(lambda n, d: (n.replace("data/0", "data/7"), d)),
        "not a file of plain tensors, or cut off or damaged",
    ),
    "short_record": (
        rezip(lambda n, d: (n, d[:-1] if n.endswith("data/0") else d)),
        "not a file of plain tensors, or cut off or damaged",
    ),
    "truncated_old": (OLD[: len(OLD) - 20], "cut off or damaged"),
    "truncated_old_pickle": (OLD[:80], "old torch file that is cut off or damaged"),
    "torn_pickle": (repickle((b"s.", b"s")), "cut off or damaged"),
    "memo_of_nothing": (repickle((b"K\x04tq\x07", b"h\xfftq\x07")), "cut off or damaged"),
    "wrong_magic": (b"\x93\x12GARBAGE" * 100, "of no kind that Segwise knows"),
    "zeros": (b"\0" * 5000, "of no kind that Segwise knows"),
    "empty": (b"", "is empty"),
    "web_page": (b"<!DOCTYPE html><html><body>Sign in to download</body></html>", "web page saved under this name"),
    "json_answer": (b'{"error": "Repository not found"}' * 3, "is a text in JSON|header does not fit"),
    "lfs_pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 375042383\n",
        "pointer of a git-LFS file",
    ),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x9c" + b"\0" * 90, "is an ONNX model"),
    "tensorflow": (b"\x08\x01\x12\xa9\x12\n\x9a\x0bsaved_model tensorflow" + b"\xff" * 90, "is a TensorFlow model"),
    "keras": (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "is an HDF5 file"),
    "numpy_pickle": (npy_of_objects, "is a NumPy array"),
    "numpy_archive": (npz(), "archive of NumPy arrays"),
    "gzip": (b"\x1f\x8b\x08\0" + b"\0" * 100, "is a gzip archive"),
    "zip_of_a_checkpoint": (
        rezip(lambda n, d: ("fold_0/checkpoint_final.pth", GOOD) if n.endswith("data.pkl") else ("a/" + n, d)),
        r"zip archive that holds fold_0/checkpoint_final\.pth: unpack it",
    ),
    "st_negative_offset": (safetensors({"w": f32(-16, 0, 4)}), "safetensors file"),
    "st_overlap": (safetensors({"a": f32(0, 16, 4), "b": f32(8, 16, 2)}), "safetensors file"),
    "st_past_the_end": (safetensors({"w": f32(0, 4 * HUGE, HUGE)}), "safetensors file"),
    "st_shape_lie": (safetensors({"w": f32(0, 16, HUGE)}), "safetensors file"),
    "st_negative_shape": (safetensors({"w": f32(0, 16, -4)}), "safetensors file"),
    "st_overflowing_shape": (safetensors({"w": f32(0, 16, 2**62, 2**62)}), "safetensors file"),
    "st_bad_dtype": (safetensors({"w": f32(0, 16, 4, dtype="PICKLE")}), "safetensors file"),
    "st_huge_header": (safetensors({"w": f32(0, 16, 4)}, length=2**60), "header does not fit the file"),
    "st_header_bomb": (safetensors(b'{"w":' * 100_000), "header does not fit the file"),
    "st_header_is_list": (safetensors(b'{"w": [1, 2]}'), "header does not fit the file"),
    "st_truncated": (safetensors({"w": f32(0, 16, 4)}, b"\0" * 8), "safetensors file"),
    "a_list": (saved([torch.zeros(2)]), "holds a list, expected names with tensors"),
    "no_tensors": (saved({"epoch": 3}), "holds epoch …, expected names with tensors"),
    "nothing_in_it": (saved({}), "holds nothing …, expected names with tensors"),
    "key_is_a_number": (saved({0: torch.zeros(2)}), "names a tensor by 0, a int"),
    "quantised": (quantised(), "w is quantised"),
    "sparse": (saved({"w": torch.zeros(4, 4).to_sparse()}), "w is sparse"),
    "meta": (saved({"w": torch.zeros(4, device="meta")}), "w is without values"),
    "missing_keys": (saved({"image_encoder.x": torch.zeros(2)}), "missing|does not|not of|no SAM|not a|expected"),
}


def made(name: str, folder: Path) -> tuple[Path, Path, str]:
    """The file, the canary, and what the message must say."""
    canary = folder / "canary"
    content, said = BROKEN[name]
    path = folder / "checkpoint.pth"
    path.write_bytes(content(canary) if callable(content) else content)
    return path, canary, said
