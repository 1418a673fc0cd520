"""Names on disk, as all layouts look at them: links are followed, hidden files left out, numbers sort as numbers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segwise.errors import DatasetError

ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".hdr")
_MAX_JSON_BYTES = 64 * 1024**2


def natural(name: str) -> list[tuple[int, int, str]]:
    """A sorting key under which "case_9" stands before "case_10"."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def visible(folder: Path) -> list[Path]:
    """What a folder holds, in natural order, without hidden files (".DS_Store", "._liver_0.nii.gz"); else []."""
    return [path for path, _ in _entries(folder)]


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, links to folders included."""
    return [path for path, is_folder in _entries(folder) if is_folder]


def _entries(folder: Path) -> list[tuple[Path, bool]]:
    """(path, whether it is a folder), without asking the disk about each file of a large tree."""
    try:
        with os.scandir(folder) as inside:
            found = [(entry.name, entry.is_dir()) for entry in inside if not entry.name.startswith((".", "__MACOSX"))]
    except OSError:
        return []
    return [(folder / name, is_folder) for name, is_folder in sorted(found, key=lambda one: natural(one[0]))]


def is_volume(path: Path) -> bool:
    """Whether the name is that of a volume file (and no folder)."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def volumes(folder: Path) -> list[Path]:
    """The volume files in a folder."""
    return [path for path, is_folder in _entries(folder) if not is_folder and path.name.lower().endswith(ENDINGS)]


def stem(path: Path) -> str:
    """The name without its ending: "liver_0.nii.gz" -> "liver_0"."""
    lower = path.name.lower()
    ending = next((e for e in (*ENDINGS, ".npz", ".dcm", ".png") if lower.endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(ending)] if ending else path.name


def first(*candidates: Path) -> Path | None:
    """The first that exists."""
    return next((path for path in candidates if path.exists()), None)


def volume_named(folder: Path, name: str) -> Path | None:
    """The volume file of that stem in a folder, whatever its ending."""
    return next((path for e in ENDINGS if (path := folder / f"{name}{e}").is_file()), None)


def within(root: Path, depth: int) -> Iterator[Path]:
    """A folder and those inside it, down to a depth, parents first; bounded also where links make a circle."""
    yield root
    if depth > 0:
        for folder in folders(root):
            yield from within(folder, depth - 1)


def relative(path: Path, root: Path) -> str:
    """A name under the root, with "/"."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def maybe_json(path: Path) -> Any:
    """The content of a JSON file, or None if there is none that can be read."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            return None
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DatasetError: it is missing, too large, no JSON or no object.
    """
    try:
        size = path.stat().st_size
        content = json.loads(path.read_text(encoding="utf-8-sig")) if size <= _MAX_JSON_BYTES else None
    except OSError as error:
        raise DatasetError(f"{path.name}: cannot be read ({type(error).__name__}); expected a JSON file") from None
    except (ValueError, RecursionError):
        raise DatasetError(f"{path.parent.name}/{path.name}: is no valid JSON; mend it with a text editor") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path.parent.name}/{path.name}: expected a JSON object {{...}}")
    return content


def nothing(root: Path, layout: str, expected: str) -> DatasetError:
    """The error of a tree that does not fit."""
    if not root.exists():
        return DatasetError(f"{root}: no such folder")
    return DatasetError(f"{root}: does not look like {layout}: found no {expected}")
