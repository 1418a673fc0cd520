"""The weights folder and the package's own weights: where they are, and whether they are what the cards say."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from segwise import catalog
from segwise.card import ModelCard, WeightFile
from segwise.errors import WeightsError

VARIABLE = "SEGWISE_WEIGHTS_DIR"
EXTRA = "imported"  # folder of checkpoints beside the released ones: imported/MODEL/DIGEST/checkpoint.pth
CONFIG_LIMIT = 10_000_000  # bytes of a config.json beside a checkpoint
PACKAGED = Path(__file__).parent / "packaged"  # weights that come with Segwise
REINSTALL = "It belongs to Segwise itself: install Segwise again"
_CHUNK = 1 << 20
_known: dict[str, str] = {}  # stamp of a file version -> its SHA-256


@dataclass(frozen=True, kw_only=True)
class Status:
    """One file of one model, as `segwise weights list` shows it.

    Attributes:
        model, variant: who needs it; variant is "" if all do.
        file: name in the weights folder.
        n_bytes: expected size, 0 if no public source states it; sha256: expected digest, "" likewise.
        licence: of the weights, as their owners state it.
        non_commercial: they may not be used commercially; accepted: the user said on this machine that the use is not.
        where: full path, whether or not it is there.
        state: "present", "missing", "damaged", "trusted" (other bytes that the user chose to trust) or "unverified"
            (no card states its digest: usable, its results are shown and not ranked).
        reason: why it is damaged, else "".
        source: "wheel", "hub", "url" or "import": the ways to get it, joined by " or "; "package": it came with
            Segwise.
    """

    model: str
    variant: str
    file: str
    n_bytes: int
    licence: str
    where: Path
    state: str
    reason: str
    source: str
    sha256: str = ""
    non_commercial: bool = False
    accepted: bool = False


def folder() -> Path:
    """The folder that holds weights: SEGWISE_WEIGHTS_DIR, else the user's cache. It need not exist."""
    given = os.environ.get(VARIABLE, "").strip()
    return Path(given).expanduser().absolute() if given else _cache() / "weights"


def require(name: str, card: ModelCard, *, variant: str = "") -> dict[str, Path]:
    """The weight files of a model, checked: name in the folder -> path.

    Size and SHA-256 are checked once per version of a file (a stamp of inode, size and times is remembered).

    Args:
        name: the model, as in specs.
        card: its card.
        variant: only the files of this variant and those that all variants need; "" for all.

    Raises:
        WeightsError: a file is missing, or is not the one the card names; says what to type.
    """
    files = wanted(card, variant)
    missing = [f for f in files if not place(f).is_file()]
    if missing:
        raise WeightsError(_how_to_get(name, missing))
    for file in files:
        reason = damage(file)
        if reason:
            again = REINSTALL if file.packaged else f"Remove it, then type: segwise weights pull {name}"
            raise WeightsError(f"{place(file)} is not the file that {name} needs: {reason}. {again}")
    return {file.file: place(file) for file in files}


def status() -> list[Status]:
    """Every weight file of every model in the catalogue, in its order."""
    found = []
    for name in catalog.names("models"):
        card: ModelCard = catalog.card("models", name)
        for file in card.weights:
            state, reason = "missing", ""
            if place(file).is_file():
                state, reason = state_of(file)
            offered = (("wheel", file.wheel), ("hub", file.hub), ("url", file.url))
            ways = ["package"] if file.packaged else [way for way, there in offered if there] or ["import"]
            found.append(
                Status(
                    model=name,
                    variant=file.variant,
                    file=file.file,
                    n_bytes=file.n_bytes,
                    licence=card.licence_weights,
                    where=place(file),
                    state=state,
                    reason=reason,
                    source=" or ".join(ways),
                    sha256=file.sha256,
                    non_commercial=card.non_commercial,
                    accepted=card.non_commercial and accepted(name),
                )
            )
    return found


def state_of(file: WeightFile) -> tuple[str, str]:
    """(state, reason) of a file that is there: "present", "trusted", "unverified" or "damaged" with why."""
    reason = damage(file)
    if reason:
        return "damaged", reason
    if trusted(file).is_file() and digest(place(file)) != file.sha256:
        return "trusted", ""
    return ("present", "") if file.sha256 else ("unverified", "")


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal; read once per version of the file.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        stamp = _stamp(path)
        if stamp not in _known:
            _known.update(_remembered())
        if stamp not in _known:
            _known[stamp] = hashed(path)
            _remember()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    return _known[stamp]


def hashed(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, always read anew."""
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def wanted(card: ModelCard, variant: str) -> tuple[WeightFile, ...]:
    """The files that a variant needs; all of them for "".

    Raises:
        WeightsError: no file belongs to that variant.
    """
    files = tuple(f for f in card.weights if not variant or f.variant in ("", variant))
    if card.weights and not files:
        known = ", ".join(dict.fromkeys(f.variant for f in card.weights))
        raise WeightsError(f'{card.title} has no weights for variant "{variant}"; there are {known}')
    return files


def place(file: WeightFile) -> Path:
    """Where a file belongs: in the weights folder, or in the package.

    Raises:
        WeightsError: its card names a place outside of it.
    """
    parts = file.file.replace("\\", "/").split("/")
    if not file.file or any(part in ("", ".", "..") or ":" in part for part in parts):
        raise WeightsError(f'a card names the weight file "{file.file}"; expected a name inside the weights folder')
    return (PACKAGED if file.packaged else folder()).joinpath(*parts)


def trusted(file: WeightFile) -> Path:
    """The note beside a file whose unknown bytes the user chose to trust: its SHA-256."""
    path = place(file)
    return path.with_name(path.name + ".trusted")


def accepted(name: str) -> bool:
    """Whether the user said on this machine that their use of a model's non-commercial weights is non-commercial."""
    return (folder() / f"{name}.accepted").is_file()


def accept(name: str) -> Path:
    """Keep the user's word that their use of a model's weights is non-commercial, with the date and the licence.

    Raises:
        WeightsError: the weights are not restricted so, or the folder cannot be written.
        CatalogError: no such model.
    """
    card: ModelCard = catalog.card("models", name)
    if not card.non_commercial:
        raise WeightsError(
            f"the weights of {card.title} need no acceptance ({card.licence_weights or 'it has none'}); nothing written"
        )
    note = folder() / f"{name}.accepted"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = f"{today}: the use of {card.title}'s weights on this machine is non-commercial.\n{card.licence_weights}\n"
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WeightsError(
            f"{note} cannot be written: {error.strerror or error}. Set SEGWISE_WEIGHTS_DIR to a folder that can"
        ) from error
    return note


def vouched(sha256: str) -> bool:
    """Whether the user trusts these bytes: a note in the weights folder says so."""
    notes = folder().rglob("*.trusted") if folder().is_dir() else ()
    return any(note.read_text(encoding="ascii", errors="replace").strip() == sha256 for note in notes)


def damage(file: WeightFile) -> str:
    """Why the file that is there is not the expected one; "" if it is, or if the user trusts its bytes."""
    path, note = place(file), trusted(file)
    if note.is_file():
        accepted = note.read_text(encoding="ascii", errors="replace").strip()
        return "" if accepted == digest(path) else "it changed after `segwise weights import` had accepted it"
    size = path.stat().st_size
    if file.n_bytes and size != file.n_bytes:
        return f"it has {size:,} bytes, expected {file.n_bytes:,}"
    if file.sha256 and digest(path) != file.sha256:
        return f"its SHA-256 is {digest(path)}, expected {file.sha256}"
    return ""


def _how_to_get(name: str, missing: list[WeightFile]) -> str:
    lost = [place(file) for file in missing if file.packaged]
    if lost:
        return f"{name} has no weights here: {lost[0]} is not there. {REINSTALL}"
    names = ", ".join(file.file for file in missing)
    pull = f"segwise weights pull {name}" if any(f.wheel or f.url or f.hub for f in missing) else ""
    bring = f"segwise weights import FILE{' (if you have the file already)' if pull else ''}"
    return (
        f"{name} has no weights here: {names} not found in {folder()}. Type: {' or '.join(filter(None, [pull, bring]))}"
    )


def _cache() -> Path:
    """The user's cache folder of Segwise, by the platform's convention."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "segwise" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "segwise"
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "segwise"


def _stamp(path: Path) -> str:
    s = path.stat()
    return f"{path.absolute()} {s.st_dev} {s.st_ino} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}"


def _remembered() -> dict[str, str]:
    """Stamps kept on disk; none if they cannot be read (then files are hashed again)."""
    try:
        kept = json.loads((_cache() / "weight_stamps.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in kept.items() if isinstance(v, str)} if isinstance(kept, dict) else {}


def _remember() -> None:
    """Keep stamps on disk where that is possible; a read-only cache only costs the next process a hash."""
    with contextlib.suppress(OSError):
        _cache().mkdir(parents=True, exist_ok=True)
        kept = dict(list({**_remembered(), **_known}.items())[-1000:])
        with tempfile.NamedTemporaryFile("w", dir=_cache(), delete=False, encoding="utf-8") as stream:
            json.dump(kept, stream)
        Path(stream.name).replace(_cache() / "weight_stamps.json")
