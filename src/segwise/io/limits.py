"""Bounds on what a file may ask for, and byte streams that keep them.

A header is believed only after its size has been weighed: a 1 kB file must not make us allocate 100 GB, nor a small
archive unpack without end. Everything here raises `FileError` with the file's name.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import logging
import math
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from segwise.errors import FileError, SegwiseError

MAX_BYTES = 8 * 1024**3  # one decoded volume: 2048 x 1024 x 1024 float32; a whole-body CT of 512x512x2000 has 1 GB
MAX_FILES = 50_000  # of a folder or zip; a gated study of a whole body has some 20,000
MAX_HEADER_BYTES = 64 * 1024**2  # text header, NIfTI extensions or anything else before the voxels
DEFLATE_RATIO = 1032  # the most deflate can expand (zlib's technical note); more than that is a lie of the header
CHUNK = 4 * 1024**2
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Limits:
    """What reading may cost; the defaults are the constants above.

    Attributes:
        max_bytes: of one decoded volume, and of all that an archive unpacks to.
        max_files: looked at in a folder or archive.
    """

    max_bytes: int = MAX_BYTES
    max_files: int = MAX_FILES

    def declared(self, name: str, shape: Sequence[int], itemsize: int) -> int:
        """Bytes of an array that a header declares.

        Raises:
            FileError: a size is not positive, or they ask for more than `max_bytes`.
        """
        if not shape or min(shape) < 1:
            raise FileError(f"{name}: the header declares the shape {tuple(shape)}, expected sizes of at least 1")
        n_bytes = math.prod(int(n) for n in shape) * itemsize
        if n_bytes > self.max_bytes:
            raise FileError(
                f"{name}: the header declares {' x '.join(map(str, shape))} voxels, {size_text(n_bytes)}, more than "
                f"the limit of {size_text(self.max_bytes)}; if that is right, raise the limit (max_bytes)"
            )
        return n_bytes


def size_text(n_bytes: int) -> str:
    """A number of bytes for a person: "1.5 GB"."""
    value = float(n_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.0f} TB" if value >= 10 else f"{value:.1f} TB"


@contextlib.contextmanager
def guarded(name: str, what: str) -> Iterator[None]:
    """Runs a reader: any failure becomes a `FileError` without a word of the file's own text, warnings are silenced.

    Messages of libraries are dropped on purpose: they quote header values, which may be a person's.
    """
    with _LOCK, warnings.catch_warnings(), _quiet_loggers():
        warnings.simplefilter("ignore")
        try:
            yield
        except SegwiseError:
            raise
        except FileNotFoundError:
            raise FileError(f"{name}: no such file") from None
        except PermissionError:
            raise FileError(f"{name}: no permission to read it") from None
        except IsADirectoryError:
            raise FileError(f"{name}: is a folder, expected {what}") from None
        except EOFError:
            raise FileError(f"{name}: the file is incomplete: it ends too early; copy it again") from None
        except (gzip.BadGzipFile, zlib.error):
            raise FileError(f"{name}: the compressed data are damaged; copy the file again") from None
        except MemoryError:
            raise FileError(f"{name}: it needs more memory than there is") from None
        except Exception as error:
            kind = type(error).__name__
            raise FileError(f"{name}: cannot be read as {what} ({kind}): it is damaged or something else") from None


@contextlib.contextmanager
def _quiet_loggers() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def opened(path: Path) -> tuple[BinaryIO, bool]:
    """(stream of a file, whether it is gzipped); by its content, not by its ending."""
    with path.open("rb") as probe:
        zipped = probe.read(2) == b"\x1f\x8b"
    return (cast(BinaryIO, gzip.open(path, "rb")), True) if zipped else (path.open("rb"), False)


def read_block(path: Path, *, offset: int, n_bytes: int, total: int) -> bytes:
    """`n_bytes` of a plain or gzipped file from `offset`, after which the whole of the stream is checked.

    Args:
        path: the file.
        offset: where the block begins in the decompressed stream.
        n_bytes: its length.
        total: where the header says that the data end; a gzip stream is read that far and its checksum compared.

    Raises:
        FileError: the file ends before `total`.
    """
    stream, zipped = opened(path)
    there = path.stat().st_size
    most = there * DEFLATE_RATIO + 1024 if zipped else there
    with stream:
        if total > most:
            raise _incomplete(path.name, total, there, zipped=zipped)
        stream.seek(offset)
        block = stream.read(n_bytes)
        if len(block) < n_bytes:
            raise _incomplete(path.name, total, offset + len(block), zipped=False)
        if zipped:
            seen = _drain(stream, total - offset - n_bytes + CHUNK)
            if offset + n_bytes + seen < total:
                raise _incomplete(path.name, total, offset + n_bytes + seen, zipped=False)
    return block


def _drain(stream: BinaryIO, limit: int) -> int:
    """Reads on to the end (where gzip compares its checksum) or to a limit; the number of bytes seen."""
    seen = 0
    while seen < limit and (chunk := stream.read(min(CHUNK, limit - seen))):
        seen += len(chunk)
    return seen


def _incomplete(name: str, expected: int, there: int, *, zipped: bool) -> FileError:
    held = f"{there:,} compressed bytes, which cannot hold that many" if zipped else f"{there:,} bytes"
    return FileError(
        f"{name}: the file is incomplete: the header declares {expected:,} bytes, the file has {held}; copy it again"
    )


def inflated(data: bytes, n_bytes: int, *, name: str, kind: str) -> bytes:
    """Decompresses "zlib", "gzip" or "bzip2" data of which exactly `n_bytes` are expected.

    Raises:
        FileError: fewer came; decoding stops at `n_bytes`, so that a bomb costs nothing.
    """
    if kind == "bzip2":
        machine2, out = bz2.BZ2Decompressor(), b""
        while len(out) < n_bytes and not machine2.eof and not (out and machine2.needs_input):
            out += machine2.decompress(b"" if out else data, n_bytes - len(out))
    else:
        if n_bytes > len(data) * DEFLATE_RATIO + 1024:
            raise _incomplete(name, n_bytes, len(data), zipped=True)
        machine = zlib.decompressobj(47)  # zlib or gzip by its head
        out = machine.decompress(data, n_bytes)
        if len(out) == n_bytes and not machine.eof:  # the checksum is still to come and must be there
            more = machine.decompress(machine.unconsumed_tail, 1)
            if not more and not machine.eof:
                raise FileError(
                    f"{name}: the file is incomplete: the end of the compressed data is missing; copy it again"
                )
    if len(out) < n_bytes:
        raise _incomplete(name, n_bytes, len(out), zipped=False)
    return out
