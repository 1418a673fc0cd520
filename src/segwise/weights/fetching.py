"""One file from an address: resumed where it stopped, never larger or slower than allowed, only over http and https.

The bytes go to a part file; whoever asks checks and places them. Redirects are followed to http(s) addresses only, and
never from https to http.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from segwise.errors import WeightsError

Progress = Callable[[str, int, int], None]  # file, bytes so far, bytes in all (0: not known)
TRIES = 4
LARGEST = 50_000_000_000  # bytes that a file of unknown size may have
SLOWEST = 20_000  # bytes a second, on the mean of a request
_CHUNK = 1 << 18
_TIMEOUT_S = 30.0  # without a byte
_GRACE_S = 120.0
_REDIRECTS = 5
_HUB = "https://huggingface.co"
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)@([\w.-]+):([\w.+/ -]+)")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked for.

    Attributes:
        model: who needs it, for messages; file: its name in the weights folder.
        url: where it is.
        n_bytes: its size, 0 if not known; sha256: its digest, "" if not known (then a part is continued only if the
            server says by its ETag that the file is still the same).
        part: where the bytes go.
    """

    model: str
    file: str
    url: str
    n_bytes: int
    sha256: str
    part: Path

    @property
    def limit(self) -> int:
        """The most bytes that are taken."""
        return self.n_bytes or LARGEST

    @property
    def note(self) -> Path:
        """What the server said of a file of unknown digest: its ETag."""
        return self.part.with_name(self.part.name + ".etag")


def hub_address(hub: str) -> str:
    """The address of "owner/name@revision:path" on the model hub, or on the one that HF_ENDPOINT names.

    Raises:
        WeightsError: not of that form.
    """
    match = _HUB_ID.fullmatch(hub)
    if not match or ".." in match[3].split("/") or match[3].startswith("/"):
        raise WeightsError(f'"{hub}" is no file of the model hub; expected owner/name@revision:path/of/file')
    endpoint = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or _HUB
    return f"{endpoint}/{match[1]}/resolve/{match[2]}/{quote(match[3])}"


def fetch(wanted: Wanted, progress: Progress | None = None, *, pause_s: float = 1.0) -> None:
    """Bring all bytes into the part file, with several tries and growing pauses.

    Raises:
        WeightsError: not reached (the part is kept), refused, or more or fewer bytes than expected.
    """
    if not wanted.url.startswith(("https://", "http://")):
        raise WeightsError(
            f"{wanted.model}: the address of {wanted.file} is {wanted.url!r}, expected http:// or https://"
        )
    try:
        reason = _attempts(wanted, progress, pause_s)
    except WeightsError:
        if wanted.part.is_file() and not wanted.part.stat().st_size:
            _drop(wanted)
        raise
    if not reason:
        wanted.note.unlink(missing_ok=True)
        return
    kept = wanted.part.stat().st_size
    of = f"of {wanted.n_bytes:,} " if wanted.n_bytes else ""
    again = f"{kept:,} {of}bytes are kept and the next pull goes on from there; " if kept else ""
    if not kept:
        _drop(wanted)
    raise WeightsError(
        f"{wanted.model}: {wanted.file} could not be fetched from {urlsplit(wanted.url).hostname}: {reason}. {again}"
        f"type again: segwise weights pull {wanted.model}, or bring the file by hand: segwise weights import FILE"
    )


def _attempts(wanted: Wanted, progress: Progress | None, pause_s: float) -> str:
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        reason = _attempt(wanted, progress)
        if not reason:
            break
    return reason


@contextlib.contextmanager
def alone(part: Path) -> Iterator[None]:
    """Only one process writes a part (where the platform has locks)."""
    with part.open("rb") as held:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise WeightsError(f"another process is fetching {part.name}; wait for it to end") from error
        yield


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, to http(s) only and never out of https."""

    max_repeats = 2
    max_redirections = _REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if new not in ("http", "https") or (old == "https" and new != "https"):
            raise WeightsError(f"{req.full_url} redirects from {old} to {new}:, which is not followed; nothing changed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Only http and https, through the proxy that the environment names; no file:, ftp: or data:."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _attempt(wanted: Wanted, progress: Progress | None) -> str:
    """One request; "" when the part is complete, else why it is not (worth another try).

    Raises:
        WeightsError: the server holds another file, or refuses; trying again will not help.
    """
    have = _continued(wanted)
    if wanted.n_bytes and have == wanted.n_bytes:
        return ""
    headers = {"User-Agent": "segwise", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if have and not wanted.sha256:
        headers["If-Range"] = _etag(wanted)
    try:
        with _opener().open(urllib.request.Request(wanted.url, headers=headers), timeout=_TIMEOUT_S) as answer:
            return _receive(answer, wanted, have, progress)
    except urllib.error.HTTPError as error:
        return _refused(error, wanted)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise WeightsError(
                f"{wanted.part.parent} cannot be written: {error.strerror}. Make room, then pull again"
            ) from error
        return str(getattr(error, "reason", error)) or type(error).__name__


def _refused(error: urllib.error.HTTPError, wanted: Wanted) -> str:
    """Why a request did not go well, where it is worth another try.

    Raises:
        WeightsError: it is not.
    """
    url = wanted.url
    if error.code == 416:  # the part is not a beginning of what is there now
        wanted.part.write_bytes(b"")
        return "the server has fewer bytes than were kept"
    if 300 <= error.code < 400 and "not allowed" in str(error.reason):
        raise WeightsError(f"{url} redirects to what is no http(s) address, which is not followed; nothing was changed")
    if 300 <= error.code < 400:
        raise WeightsError(f"{url} redirects in a circle or more than {_REDIRECTS} times; nothing was changed")
    if error.code in (401, 403):
        raise WeightsError(
            f"{url} answered {error.code} {error.reason}: it wants a login or the acceptance of its terms. Fetch the "
            f"file in a browser, then type: segwise weights import FILE --as {wanted.model}"
        )
    if error.code < 500 and error.code not in (408, 429):
        raise WeightsError(f"{url} answered {error.code} {error.reason}; nothing was changed") from error
    return f"the server answered {error.code} {error.reason}"


def _continued(wanted: Wanted) -> int:
    """Bytes of the part that can be kept; without a digest only those of which the server said what they are of."""
    have = wanted.part.stat().st_size
    if have and not wanted.sha256 and not _etag(wanted):
        wanted.part.write_bytes(b"")
        return 0
    return have


def _etag(wanted: Wanted) -> str:
    try:
        found = json.loads(wanted.note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(found.get("etag", "")) if isinstance(found, dict) and found.get("url") == wanted.url else ""


def _receive(answer: http.client.HTTPResponse, wanted: Wanted, have: int, progress: Progress | None) -> str:
    """Write what comes; the server may ignore the range (then from the start)."""
    start = have if answer.status == 206 and _range_start(answer) == have else 0
    if answer.status == 206 and start != have:
        wanted.part.write_bytes(b"")
        return "the server sent another range than the one asked for"
    whole = _announced(answer, wanted, start)
    tag = answer.headers.get("ETag", "")
    if not wanted.sha256 and not start:
        strong = tag if tag.startswith('"') else ""
        wanted.note.write_text(json.dumps({"etag": strong, "url": wanted.url}), encoding="utf-8")
    at = _write(answer, wanted, start, whole, progress)
    if at > wanted.limit:
        _drop(wanted)
        raise WeightsError(f"{wanted.url} sent more than {wanted.limit:,} bytes; not used")
    if whole and at < whole:
        return f"the connection ended after {at:,} of {whole:,} bytes"
    return "" if at else "the server sent nothing"


def _announced(answer: http.client.HTTPResponse, wanted: Wanted, start: int) -> int:
    """Bytes of the whole file, 0 if neither the card nor the server says.

    Raises:
        WeightsError: the server offers another size than the card's, or more than is taken.
    """
    length = answer.headers.get("Content-Length")
    if length is None or not length.isdigit():
        return wanted.n_bytes
    whole = start + int(length)
    if (wanted.n_bytes and whole != wanted.n_bytes) or whole > wanted.limit:
        _drop(wanted)
        expected = f"{wanted.n_bytes:,}" if wanted.n_bytes else f"at most {wanted.limit:,}"
        raise WeightsError(f"{wanted.url} offers {whole:,} bytes, expected {expected}; not fetched")
    return whole


def _write(answer: http.client.HTTPResponse, wanted: Wanted, start: int, whole: int, progress: Progress | None) -> int:
    """Append what comes; where it ended. Ends early when more comes than is wanted, or too slowly."""
    began = time.monotonic()
    at = start
    with wanted.part.open("r+b") as sink:
        sink.truncate(start)
        sink.seek(start)
        while at <= wanted.limit and (chunk := answer.read1(_CHUNK)):
            sink.write(chunk)
            at += len(chunk)
            if progress is not None:
                progress(wanted.file, min(at, whole or at), whole)
            if time.monotonic() - began > _GRACE_S + (at - start) / SLOWEST:
                raise TimeoutError(f"slower than {SLOWEST // 1000} kB a second")
    return at


def _range_start(answer: http.client.HTTPResponse) -> int:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else -1


def _drop(wanted: Wanted) -> None:
    wanted.part.unlink(missing_ok=True)
    wanted.note.unlink(missing_ok=True)
