"""What a file is by its bytes, before any library opens it: refuses what no model can load, in a sentence each.

Sizes that a file declares are held against the bytes it has, so that nothing is allocated that is not there.
"""

from __future__ import annotations

import mmap
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from segwise.errors import WeightsError

WANTED = "expected plain tensors (safetensors or a torch state dict), as the model's authors publish them"
_BEGINNINGS = (  # bytes a file begins with, what it is, what to do
    (b"version https://git-lfs", "the pointer of a git-LFS file, not the file itself", "fetch it with git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras or TensorFlow)", "get the torch version of these weights"),
    (b"\x93NUMPY", "a NumPy array", "get the torch version of these weights"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"GGUF", "a GGUF file", "get the torch version of these weights"),
    (b"%PDF", "a PDF document", "download the weights themselves"),
    (b"\x7fELF", "a program", "download the weights themselves"),
    (b"MZ", "a program", "download the weights themselves"),
    (b"\x5c\x01\x00\x00", "a NIfTI image", "give the file of weights instead"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
_TENSORS = (".pth", ".pt", ".safetensors", ".ckpt", ".bin", ".pkl", ".tar", ".th")
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # torch before 1.6: a pickle of its magic number
_PICKLE_LIMIT = 1 << 28  # bytes of the part of a torch archive that describes its tensors


def refuse_other(path: Path) -> None:
    """Raise unless a file may be weights: safetensors, a torch archive, or torch's older single pickle.

    Raises:
        WeightsError: what it is instead, what was expected, and what to do.
    """
    with path.open("rb") as stream:
        start = stream.read(512)
    if not start:
        raise WeightsError(f"{path.name} is empty; {WANTED}: download or copy it again")
    for beginning, what, remedy in _BEGINNINGS:
        if start.startswith(beginning):
            raise WeightsError(f"{path.name} is {what}; {WANTED}: {remedy}")
    text = start.lstrip().lower()
    if text.startswith(_PAGES):
        raise WeightsError(
            f"{path.name} is a web page saved under this name, not weights; {WANTED}: download the file itself"
        )
    if start[257:262] == b"ustar":
        raise WeightsError(
            f"{path.name} is a tar archive (as torch wrote before 2016, or packed by somebody); {WANTED}: unpack it "
            "first, or for an archive of Segwise type segwise weights import FILE"
        )
    if start.startswith(b"PK"):
        _refuse_zip(path)
    elif start.startswith(_LEGACY):
        _refuse_declared(path)
    elif start[:1] == b"\x80" and start[1:2] <= b"\x05":
        raise WeightsError(
            f"{path.name} is a bare pickle, which may hold code. Segwise never runs code from a weight file; "
            f"{WANTED}: ask for such a file"
        )
    elif start[8:9] != b"{":
        raise WeightsError(f"{path.name} is {_guess(start)}; {WANTED}: download or copy it again")


def refuse_stranger(path: Path, file: str) -> None:
    """As `refuse_other` for tensors; for a card's other files (vocabularies, tables) only what nobody publishes.

    Raises:
        WeightsError: empty, a web page, a git-LFS pointer, or for tensors anything else than these.
    """
    if Path(file).suffix in _TENSORS:
        refuse_other(path)
        return
    with path.open("rb") as stream:
        start = stream.read(512)
    if not start or start.startswith(_BEGINNINGS[0][0]) or start.lstrip().lower().startswith(_PAGES[:2]):
        what = "empty" if not start else "a web page or a git-LFS pointer saved under this name"
        raise WeightsError(f"{path.name} is {what}; expected the file that its authors publish: download it again")


def _guess(start: bytes) -> str:
    if any(word in start for word in (b"pytorch", b"onnx", b"tf2onnx", b"keras2onnx")) and start[:1] == b"\x08":
        return "an ONNX model"
    if b"saved_model" in start or b"tensorflow" in start.lower():
        return "a TensorFlow model"
    if start.lstrip()[:1] in (b"{", b"["):
        return "a text in JSON"
    if any(byte < 9 or byte > 126 for byte in start):
        return f"of no kind that Segwise knows (it begins with {start[:8].hex(' ')})"
    return "a text"


def _refuse_zip(path: Path) -> None:
    """Look at the table of a zip: torch stores its records as they are, so none can be larger than the file."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise WeightsError(
            f"{path.name} begins like a torch file and has no end ({size:,} bytes): cut off or damaged; {WANTED}: "
            "download or copy it again"
        ) from error
    names = [info.filename for info in infos]
    parts = [name.replace("\\", "/").split("/") for name in names]
    if any(".." in part or part[0] == "" or ":" in part[0] for part in parts):
        raise WeightsError(f"{path.name} names records outside its own folder: a hostile file; {WANTED}")
    if any(len(part) == 2 and part[1] == "constants.pkl" for part in parts):
        raise WeightsError(
            f"{path.name} is a TorchScript program. Segwise never runs code from a weight file; {WANTED}: ask for "
            "its state dict"
        )
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos) and _torch(names):
        raise WeightsError(
            f"{path.name} has packed records, as torch never writes: a hostile or repacked file; {WANTED}"
        )
    if not _torch(names):
        raise WeightsError(f"{path.name} is {_zip_kind(names)}; {WANTED}")
    if sum(info.file_size for info in infos) > size:
        raise WeightsError(f"{path.name} declares more bytes than its {size:,}: a hostile or damaged file; {WANTED}")
    described = [info.file_size for info in infos if info.filename.endswith("/data.pkl")]
    if max(described) > _PICKLE_LIMIT:
        raise WeightsError(f"{path.name} describes its tensors in {max(described):,} bytes: a hostile file; {WANTED}")


def _torch(names: list[str]) -> bool:
    return any(name.endswith("/data.pkl") and name.count("/") == 1 for name in names)


def _zip_kind(names: list[str]) -> str:
    inner = sorted(name for name in names if name.endswith((".pth", ".pt", ".safetensors", ".ckpt", ".bin")))
    if "segwise-weights.json" in names:
        return "an archive that segwise weights pack made: type segwise weights import FILE"
    if any(name.endswith(".npy") for name in names):
        return "an archive of NumPy arrays"
    if inner:
        return f"a zip archive that holds {inner[0]}: unpack it and give that file"
    return f"a zip archive of other things ({', '.join(names[:3]) or 'empty'})"


def _refuse_declared(path: Path) -> None:
    """Hold the sizes that an old torch file declares against its bytes.

    Raises:
        WeightsError: a storage larger than the file, all together larger, or a pickle that is cut off.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            declared: dict[str, int] = {}
            for _ in range(4):  # magic number, protocol, machine, the object itself
                declared = _storages(data)
    except (ValueError, IndexError, OverflowError, MemoryError, KeyError) as error:
        raise WeightsError(
            f"{path.name} is an old torch file that is cut off or damaged ({type(error).__name__}); {WANTED}: download "
            "or copy it again"
        ) from error
    if sum(declared.values()) > size:
        raise WeightsError(
            f"{path.name} declares tensors of {sum(declared.values()):,} values and has {size:,} bytes: a hostile or "
            f"damaged file; {WANTED}"
        )


def _storages(data: Any) -> dict[str, int]:
    """Key -> number of values of the storages that one pickle names; nothing is built.

    A machine of marks, numbers, texts and tuples is enough to follow the names; all else is None on its stack.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    found: dict[str, int] = {}
    mark = object()
    for code, argument, _ in pickletools.genops(data):
        name = code.name
        if name == "MARK":
            stack.append(mark)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(argument or 0)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(argument or 0)])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "BINPERSID":
            _note(found, stack.pop())
            stack.append(None)
        else:
            _step(stack, mark, code, argument)
    return found


def _step(stack: list[Any], mark: object, code: pickletools.OpcodeInfo, argument: Any) -> None:
    """Apply an opcode by what it takes and gives; only numbers, texts and tuples of them keep their value."""
    taken: list[Any] = []
    for kind in reversed(code.stack_before):
        if kind.name == "stackslice":
            while (top := stack.pop()) is not mark:
                taken.append(top)
        elif kind.name != "mark":
            taken.append(stack.pop())
    taken.reverse()
    for _ in code.stack_after:
        value = argument if isinstance(argument, int | str) and not taken else None
        stack.append(tuple(taken) if code.name.startswith(("TUPLE", "EMPTY_TUPLE")) else value)


def _note(found: dict[str, int], named: Any) -> None:
    if isinstance(named, tuple) and len(named) >= 5 and named[0] == "storage":
        if not isinstance(named[4], int) or named[4] < 0:
            raise ValueError(f"a storage of {named[4]!r} values")
        found[str(named[2])] = max(named[4], found.get(str(named[2]), 0))
