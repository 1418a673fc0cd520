"""A session in one file: what was said, what was taken back, and the masks; nothing of the image, no name, no path.

The scan is known by the digest of its voxels and by its grid. Targets and words are what the user typed. The file is
JSON with a checksum; it is written beside itself and renamed, so that a crash leaves the last whole one.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segwise.errors import FileError, PromptError
from segwise.prompt import Prompt
from segwise.session.packed import Packed

VERSION = 1
STALE_S = 600  # age of a half-written file that nobody writes any more
_LIMIT = 1 << 30  # bytes of a file that is read


@dataclass(frozen=True)
class Saved:
    """What a session file holds.

    Attributes:
        volume, grid: digests of the scan's voxels and of its grid.
        model: the spec as the caller named it; segmenter: its digest.
        seed: of the session.
        rounds: prompts by target, in order.
        undone: (target, prompt) that redo can bring back, the last one first to come.
        accepted: targets that are finished.
        masks: the latest mask by target.
    """

    volume: str
    grid: str
    model: str
    segmenter: str
    seed: int
    rounds: Sequence[Mapping[str, Prompt]]
    undone: Sequence[tuple[str, Prompt]] = ()
    accepted: Sequence[str] = ()
    masks: Mapping[str, Packed] = field(default_factory=dict)


def write(path: Path, saved: Saved, *, after: str | None = None) -> str:
    """The file, whole or as it was before.

    Args:
        path: of the file.
        saved: what it holds from now on.
        after: what `stamp` said of the file that this one goes on from; "" where there was none, None to replace any.

    Returns:
        The new file's stamp.

    Raises:
        FileError: the folder cannot be written, or another program has written the file since.
    """
    held = {
        "segwise_session": VERSION,
        "volume": saved.volume,
        "grid": saved.grid,
        "model": saved.model,
        "segmenter": saved.segmenter,
        "seed": saved.seed,
        "rounds": [{name: prompt.to_json() for name, prompt in spoken.items()} for spoken in saved.rounds],
        "undone": [[name, prompt.to_json()] for name, prompt in saved.undone],
        "accepted": list(saved.accepted),
        "masks": {name: packed.to_json() for name, packed in saved.masks.items()},
    }
    stamped = _sum(held)
    text = json.dumps({"sum": stamped, **held})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            with _alone(path.parent):
                if after is not None and stamp(path) != after:
                    raise FileError(
                        f"{path} was changed by another program since this session read it, and is left as that "
                        "program wrote it; open it again and repeat the last step, or work in another file"
                    )
                Path(name).replace(path)
                _swept(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise FileError(
            f"the session cannot be kept in {path}: {error.strerror or error}; choose another file"
        ) from error
    return stamped


def stamp(path: Path) -> str:
    """What tells one state of a session file from another: its checksum; "" if it is not there."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            head = stream.read(len('{"sum": ""}') + 32)
    except FileNotFoundError:
        return ""
    found = re.match(r'\{"sum": "([0-9a-f]{32})"', head)
    return found[1] if found else "of another make"


def _swept(path: Path) -> None:
    """Away with what killed programs left of this file, half written."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_S:
                left.unlink()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else of us writes a session in a folder meanwhile, where the system can see to it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a network folder without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def read(path: Path) -> Saved:
    """What a session file holds.

    Raises:
        FileError: it is not there, damaged, no session, or of a newer version.
    """
    try:
        if path.stat().st_size > _LIMIT:
            raise FileError(f"{path} has {path.stat().st_size:,} bytes, a session file has fewer than {_LIMIT:,}")
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"the session {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is no session file: it is not JSON; expected a file that a session kept") from error
    if not isinstance(held, dict) or not isinstance(held.get("segwise_session"), int):
        raise FileError(f"{path} is no session file; expected a file that a session kept")
    if held["segwise_session"] > VERSION:
        raise FileError(
            f"{path} was kept by a newer Segwise (format {held['segwise_session']}); this one reads {VERSION}"
        )
    if held.pop("sum", None) != _sum(held):
        raise FileError(f"{path} is damaged: its content is not what was written; take an earlier copy")
    try:
        return _saved(held)
    except (KeyError, TypeError, ValueError, PromptError) as error:
        raise FileError(f"{path} is damaged: {error}") from error


def _saved(held: Mapping[str, Any]) -> Saved:
    return Saved(
        volume=str(held["volume"]),
        grid=str(held["grid"]),
        model=str(held["model"]),
        segmenter=str(held["segmenter"]),
        seed=int(held["seed"]),
        rounds=[{str(name): Prompt.from_json(marks) for name, marks in spoken.items()} for spoken in held["rounds"]],
        undone=[(str(name), Prompt.from_json(marks)) for name, marks in held["undone"]],
        accepted=[str(name) for name in held["accepted"]],
        masks={str(name): Packed.from_json(packed) for name, packed in held["masks"].items()},
    )


def _sum(held: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(held, sort_keys=True).encode(), digest_size=16).hexdigest()
