"""Weights as one archive for a place without a network: a tar or zip with a manifest, written and read with care.

The manifest (segwise-weights.json, the first member) names for every file its model, name, size, SHA-256, licence and
whether it is for non-commercial use only. Members are called files/0000, files/0001 …: no name of the archive ever
becomes a path. The same files give the same archive, byte for byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from segwise import catalog
from segwise.card import ModelCard
from segwise.errors import WeightsError
from segwise.weights.local import CONFIG_LIMIT, EXTRA, folder, hashed, place, state_of

MANIFEST = "segwise-weights.json"
FORMAT = "segwise weights 1"
_MANIFEST_LIMIT = 50_000_000  # bytes
_MOST = 10_000  # files
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of an archive.

    Attributes:
        model, variant: who needs it; file: its name in the weights folder.
        n_bytes, sha256: of the bytes; member: their name in the archive.
        licence, non_commercial: of the weights.
        state: "present", "trusted" or "unverified" where it was packed.
        config: what config.json beside it holds, None without.
    """

    model: str
    variant: str
    file: str
    n_bytes: int
    sha256: str
    member: str
    licence: str
    non_commercial: bool
    state: str
    config: dict[str, Any] | None = None


def pack(target: Path, models: Sequence[str] = ()) -> list[Entry]:
    """Write the weights of some models, or of all that are here, into one archive (.tar or .zip, by its name).

    Returns:
        What is in it, in order.

    Raises:
        WeightsError: another ending, nothing to pack, a damaged file, or a place that cannot be written.
    """
    if target.suffix not in (".tar", ".zip"):
        raise WeightsError(f"{target.name} ends in {target.suffix or 'nothing'}, expected .tar or .zip")
    found = _here(models)
    try:
        with tempfile.NamedTemporaryFile(dir=target.absolute().parent, prefix=".segwise-", delete=False) as sink:
            half = Path(sink.name)
            try:
                (_write_tar if target.suffix == ".tar" else _write_zip)(sink, found)
            except BaseException:
                half.unlink()
                raise
        half.chmod(0o644)
        half.replace(target)
    except OSError as error:
        raise WeightsError(f"{target} cannot be written: {error.strerror or error}; give another place") from error
    return [entry for entry, _ in found]


def is_pack(path: Path) -> bool:
    """Whether a file is an archive of this kind, by its first bytes or the names in it."""
    with path.open("rb") as stream:
        start = stream.read(512)
    if start[257:262] == b"ustar":
        return start.startswith(MANIFEST.encode() + b"\0")
    if not start.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return MANIFEST in archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False


def unpacked(path: Path, scratch: Path) -> Iterator[tuple[Entry, Path]]:
    """The files of an archive, one after the other, each checked in size and SHA-256.

    Raises:
        WeightsError: a manifest that is none, a member that is missing, a link, packed, larger or of other bytes.
    """
    try:
        with _reader(path) as read:
            entries = _manifest(read(MANIFEST, _MANIFEST_LIMIT).read(_MANIFEST_LIMIT + 1), path)
            for number, entry in enumerate(entries):
                ready = scratch / f"{number}"
                _copy(read(entry.member, entry.n_bytes), ready, entry, path)
                if entry.config is not None:
                    _config_place(ready).write_text(json.dumps(entry.config), encoding="utf-8")
                yield entry, ready
    except (zipfile.BadZipFile, tarfile.TarError, KeyError, EOFError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path.name} is a damaged or hostile archive of weights ({str(error)[:120] or type(error).__name__}); "
            "expected one that segwise weights pack made: pack or copy it again"
        ) from error


def config_of(ready: Path) -> Path | None:
    """The config.json that belongs to an unpacked file, if there is one."""
    beside = _config_place(ready)
    return beside if beside.is_file() else None


def _config_place(ready: Path) -> Path:
    return ready.with_name(ready.name + ".config.json")


def _here(models: Sequence[str]) -> list[tuple[Entry, Path]]:
    """The files that are here, in the order of the archive."""
    found: list[tuple[dict[str, Any], Path]] = []
    for name in sorted(set(models) or catalog.names("models")):
        own = [*_released(name), *_extra(name)]
        if models and not own:
            raise WeightsError(
                f"{name} has no weights here to pack; bring them first: segwise weights pull {name}, or segwise "
                "weights import FILE"
            )
        found += own
    if not found:
        raise WeightsError(f"{folder()} holds no weights to pack; bring some first: segwise weights list")
    members: dict[Path, str] = {}
    return [
        (Entry(**facts, member=members.setdefault(path, f"files/{len(members):04}")), path) for facts, path in found
    ]


def _released(name: str) -> Iterator[tuple[dict[str, Any], Path]]:
    card: ModelCard = catalog.card("models", name)
    for file in card.weights:
        path = place(file)
        if path.is_file() and not file.packaged:
            state, reason = state_of(file)
            if state == "damaged":
                raise WeightsError(f"{path} is not packed: {reason}. Bring it again: segwise weights pull {name}")
            yield _facts(name, card, file.file, path, state=state, variant=file.variant), path


def _extra(name: str) -> Iterator[tuple[dict[str, Any], Path]]:
    card: ModelCard = catalog.card("models", name)
    for path in sorted((folder() / EXTRA / name).glob("*/checkpoint.pth")):
        config = path.with_name("config.json")
        held = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None
        file = path.relative_to(folder()).as_posix()
        yield {**_facts(name, card, file, path, state="unverified", variant=""), "config": held}, path


def _facts(name: str, card: ModelCard, file: str, path: Path, *, state: str, variant: str) -> dict[str, Any]:
    return {
        "model": name,
        "variant": variant,
        "file": file,
        "n_bytes": path.stat().st_size,
        "sha256": hashed(path),
        "licence": card.licence_weights,
        "non_commercial": card.non_commercial,
        "state": state,
    }


def _manifest_text(found: Sequence[tuple[Entry, Path]]) -> bytes:
    whole = {"format": FORMAT, "files": [asdict(entry) for entry, _ in found]}
    return (json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _write_tar(sink: IO[bytes], found: Sequence[tuple[Entry, Path]]) -> None:
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as archive:
        text = _manifest_text(found)
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
        for entry, path in _once(found):
            info = tarfile.TarInfo(entry.member)  # no time, no owner
            info.size = entry.n_bytes
            with path.open("rb") as stream:
                archive.addfile(info, stream)


def _write_zip(sink: IO[bytes], found: Sequence[tuple[Entry, Path]]) -> None:
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_zip_info(MANIFEST), _manifest_text(found))
        for entry, path in _once(found):
            with path.open("rb") as stream, archive.open(_zip_info(entry.member), "w", force_zip64=True) as member:
                while chunk := stream.read(_CHUNK):
                    member.write(chunk)


def _zip_info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)  # 1980-01-01
    info.external_attr, info.create_system = 0o644 << 16, 3
    return info


def _once(found: Sequence[tuple[Entry, Path]]) -> Iterator[tuple[Entry, Path]]:
    seen: set[str] = set()
    for entry, path in found:
        if entry.member not in seen:
            seen.add(entry.member)
            yield entry, path


@contextlib.contextmanager
def _reader(path: Path) -> Iterator[Callable[[str, int], IO[bytes]]]:
    """A function (member, most bytes) -> stream, for either kind of archive."""
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:
        with zipfile.ZipFile(path) as archive:
            yield lambda name, most: _zip_member(archive, name, most)
    else:
        with tarfile.open(path, "r:") as tar:
            yield lambda name, most: _tar_member(tar, name, most)


def _zip_member(archive: zipfile.ZipFile, name: str, most: int) -> IO[bytes]:
    info = archive.getinfo(name)
    kind = info.external_attr >> 28  # of the file's mode: 8 a file, 0 not said
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or kind not in (0, 8):
        raise ValueError(f"{name} is packed, locked or a link")
    if info.file_size > most:
        raise ValueError(f"{name} has {info.file_size:,} bytes, expected at most {most:,}")
    return archive.open(info)


def _tar_member(tar: tarfile.TarFile, name: str, most: int) -> IO[bytes]:
    info = tar.getmember(name)
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise ValueError(f"{name} is a link or no regular file")
    stream = tar.extractfile(info)
    if stream is None or info.size > most:
        raise ValueError(f"{name} has {info.size:,} bytes, expected at most {most:,}")
    return stream


def _manifest(text: bytes, path: Path) -> list[Entry]:
    """The entries of a manifest.

    Raises:
        ValueError: not a manifest, or one whose sizes cannot be.
    """
    whole = json.loads(text)
    if not isinstance(whole, dict) or whole.get("format") != FORMAT or not isinstance(whole.get("files"), list):
        raise ValueError(f'its manifest is not of "{FORMAT}"')
    if len(whole["files"]) > _MOST:
        raise ValueError(f"it names {len(whole['files']):,} files, expected at most {_MOST:,}")
    entries = [_entry(item) for item in whole["files"]]
    sizes = {entry.member: entry.n_bytes for entry in entries}
    if sum(sizes.values()) > path.stat().st_size:
        raise ValueError(f"it declares {sum(sizes.values()):,} bytes and has {path.stat().st_size:,}")
    return entries


def _entry(item: Any) -> Entry:
    texts = ("model", "variant", "file", "sha256", "member", "licence", "state")
    good = isinstance(item, dict) and all(isinstance(item.get(key), str) for key in texts)
    good = good and type(item.get("n_bytes")) is int and item["n_bytes"] >= 0
    good = good and isinstance(item.get("non_commercial"), bool) and isinstance(item.get("config"), dict | None)
    if not good or not re.fullmatch(r"files/\d{4}", item["member"]) or not re.fullmatch("[0-9a-f]{64}", item["sha256"]):
        raise ValueError("its manifest has an entry that is none")
    if len(json.dumps(item.get("config"))) > CONFIG_LIMIT:
        raise ValueError("its manifest has a configuration that is too large")
    return Entry(**{key: item.get(key) for key in Entry.__dataclass_fields__})


def _copy(stream: IO[bytes], ready: Path, entry: Entry, path: Path) -> None:
    sha, left = hashlib.sha256(), entry.n_bytes + 1
    with ready.open("wb") as sink:
        while left and (chunk := stream.read(min(left, _CHUNK))):
            sink.write(chunk)
            sha.update(chunk)
            left -= len(chunk)
    if left != 1 or sha.hexdigest() != entry.sha256:
        came = f"{entry.n_bytes + 1 - left:,} bytes with SHA-256 {sha.hexdigest()}"
        raise WeightsError(
            f"{path.name}: {entry.file} has {came}, expected {entry.n_bytes:,} with {entry.sha256}: damaged; pack or "
            "copy it again"
        )
