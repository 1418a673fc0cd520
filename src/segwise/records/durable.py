"""Writing so that a process killed at any moment loses nothing that was promised: the write path of a run folder.

Three moves, each with named steps between which a test may kill the process:
- a file appears whole or not at all (`write_whole`: temporary file, fsync, rename, fsync of the folder);
- a line is appended with its checksum and fsync'd (`append_line`); a torn last line is dropped on reading (`lines`) and
  cut off before the next append (`repair`);
- one process at a time holds a lock that the system takes back when the process dies (`Lock`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from segwise.errors import RunError

_HEAD = len('{"sum": "0123456789abcdef", "items": ')


def step(name: str) -> None:
    """A moment of the write path. Does nothing; tests replace it to count the moments and to kill at each."""


def _usual_mode() -> int:
    """The mode that a plain new file gets here: mkstemp's own would shut out those who share the disk."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


_MODE = _usual_mode()


def write_whole(path: Path, data: bytes) -> None:
    """A file that appears whole or not at all, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    Path(name).chmod(_MODE)
    try:
        with os.fdopen(handle, "wb") as file:
            step("whole.created")
            file.write(data[: len(data) // 2])
            file.flush()
            step("whole.half")
            file.write(data[len(data) // 2 :])
            file.flush()
            os.fsync(file.fileno())
        step("whole.synced")
        Path(name).replace(path)
        step("whole.renamed")
        sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make names created or renamed in a folder durable (nothing to do on Windows)."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def line_of(items: list[dict[str, Any]]) -> bytes:
    """One line that holds a batch and its checksum; JSON."""
    body = json.dumps(items, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f'{{"sum": "{_sum(body)}", "items": {body}}}\n'.encode()


def append_line(file: IO[bytes], items: list[dict[str, Any]]) -> None:
    """Append a batch to a file opened for appending; on disk when this returns. All of it counts, or none."""
    data = line_of(items)
    step("append.begin")
    file.write(data[: len(data) // 2])
    file.flush()
    step("append.torn")
    file.write(data[len(data) // 2 :])
    file.flush()
    step("append.written")
    os.fsync(file.fileno())
    step("append.synced")


def lines(path: Path, start: int = 0) -> Iterator[list[dict[str, Any]]]:
    """The batches of a file from a byte on; a torn last line is passed over.

    Raises:
        RunError: a line that is not the last is damaged.
    """
    for number, (raw, last) in enumerate(_marked(path, start), start=1):
        items = _items(raw)
        if items is not None:
            yield items
        elif not last:
            raise RunError(
                f"{path}: line {number} is damaged (its checksum does not match); delete that line to go on without it"
            )


def repair(path: Path) -> int:
    """Cut off a torn last line; how many bytes were dropped."""
    if not path.exists():
        return 0
    size = good = 0
    for raw, last in _marked(path):
        size += len(raw)
        good = size if not last or _items(raw) is not None else good
    if good < size:
        with path.open("r+b") as file:
            file.truncate(good)
            os.fsync(file.fileno())
    return size - good


def _marked(path: Path, start: int = 0) -> Iterator[tuple[bytes, bool]]:
    """(line, whether it is the last)."""
    with path.open("rb") as file:
        file.seek(start)
        before: bytes | None = None
        for raw in file:
            if before is not None:
                yield before, False
            before = raw
        if before is not None:
            yield before, True


def _items(raw: bytes) -> list[dict[str, Any]] | None:
    try:
        text = raw.decode()
        if not text.endswith("}\n") or not text.startswith('{"sum": "'):
            return None
        body = text[_HEAD:-2]
        return list(json.loads(body)) if text[9:25] == _sum(body) else None
    except ValueError:
        return None


def _sum(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=8).hexdigest()


class Lock:
    """Held by one process at a time; taken back by the system when the process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def take(self, *, wait: bool) -> bool:
        """Take it; False if another holds it and we do not wait."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("ab")
        if not _locked(file, wait=wait):
            file.close()
            return False
        self._file = file
        return True

    def give(self) -> None:
        """Give it back."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """While this holds, no other process is inside `alone` of the same path."""
    lock = Lock(path)
    lock.take(wait=True)
    try:
        yield
    finally:
        lock.give()


if sys.platform == "win32":
    import msvcrt

    def _locked(file: IO[bytes], *, wait: bool) -> bool:
        file.seek(0)
        while True:
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not wait:
                    return False
else:
    import fcntl

    def _locked(file: IO[bytes], *, wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True
