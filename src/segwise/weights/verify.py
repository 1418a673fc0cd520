"""Every weight file that is here, read anew and held to what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segwise import catalog
from segwise.card import ModelCard, WeightFile
from segwise.errors import WeightsError
from segwise.weights.local import EXTRA, folder, hashed, place, trusted
from segwise.weights.looks import refuse_stranger


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One file that is here.

    Attributes:
        model: who needs it; file: its name in the weights folder; path in full.
        state: "right" (the digest that the card states), "trusted" (the digest that the user vouched for),
            "unverified" (whole as far as can be seen, but nobody states its digest) or "damaged".
        sha256: of its bytes now; reason: why it is damaged, else "".
    """

    model: str
    file: str
    path: Path
    state: str
    sha256: str
    reason: str


def verify(models: Sequence[str] = ()) -> list[Verified]:
    """Read and check the files of some models, or of all; those that are missing are passed over.

    Raises:
        CatalogError: no such model. WeightsError: a card names a place outside the weights folder.
    """
    found = []
    for name in models or catalog.names("models"):
        card: ModelCard = catalog.card("models", name)
        found += [_released(name, file) for file in card.weights if place(file).is_file()]
        found += [_extra(name, path) for path in sorted((folder() / EXTRA / name).glob("*/checkpoint.pth"))]
    return found


def _released(name: str, file: WeightFile) -> Verified:
    path, note = place(file), trusted(file)
    vouched = note.read_text(encoding="ascii", errors="replace").strip() if note.is_file() else ""
    size = path.stat().st_size
    if not vouched and file.n_bytes and size != file.n_bytes:
        reason = f"it has {size:,} bytes, expected {file.n_bytes:,}"
        return Verified(model=name, file=file.file, path=path, state="damaged", sha256="", reason=reason)
    return _compared(name, file.file, path, vouched or file.sha256, "trusted" if vouched else "right")


def _extra(name: str, path: Path) -> Verified:
    note = path.with_name(path.name + ".trusted")
    vouched = note.read_text(encoding="ascii", errors="replace").strip() if note.is_file() else ""
    state = "trusted" if vouched else "unverified"
    return _compared(name, path.relative_to(folder()).as_posix(), path, vouched or path.parent.name, state)


def _compared(name: str, file: str, path: Path, expected: str, state: str) -> Verified:
    """Hold a file to (the beginning of) a digest; without one to what can be seen of it."""
    try:
        sha, reason = hashed(path), ""
        if not expected:
            state = "unverified"
            refuse_stranger(path, file)
    except OSError as error:
        sha, reason = "", f"it cannot be read: {error.strerror or error}"
    except WeightsError as error:
        reason = str(error)
    if expected and sha and not sha.startswith(expected):
        reason = f"its SHA-256 is {sha}, expected {expected}"
    return Verified(model=name, file=file, path=path, state="damaged" if reason else state, sha256=sha, reason=reason)
